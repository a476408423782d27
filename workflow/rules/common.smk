# What all rules share: the validated config, paths, and what a step is made from besides its input files.
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from hermesflow import provenance
from hermesflow.config import BASE, load_config
from hermesflow.errors import ConfigError
from hermesflow.pipeline import check_mirror, is_mirror
from hermesflow.running import hold_folder

FOLDER_LOCK = hold_folder(Path(".snakemake"))


def _config_file():
    if len(workflow.configfiles) > 1:
        raise ConfigError("Pass one --configfile: a config is one whole file, not an overlay on another.")
    return os.path.relpath(workflow.configfiles[0]) if workflow.configfiles else "config/micro.yaml"


def _seeds(path):
    # Not `configfile:`: it would merge the default's keys into every other config.
    plain = yaml.safe_load(Path(path).read_text()) if workflow.configfiles else {}
    other = [key for key, value in config.items() if key != "seeds" and plain.get(key) != value]
    if other:
        raise ConfigError(f"--config {other[0]}=...: only `seeds` can be set there; change {path} for the rest.")
    return list(config.get("seeds", CONFIG.seeds))


CONFIG_FILE = _config_file()
CONFIG = load_config(CONFIG_FILE)
SEEDS = _seeds(CONFIG_FILE)
CHECKPOINTS = [BASE, *CONFIG.checkpoints]
SHARDS = CONFIG.runtime.shards
ROOT = Path("results") / CONFIG.name
NODE = f"{ROOT}/seed{{seed}}/{{checkpoint}}"  # folder of one checkpoint of one seed
STEP = f"{shlex.quote(sys.executable)} -m hermesflow"
JOB = "--config {CONFIG_FILE} --seed {wildcards.seed} --checkpoint {wildcards.checkpoint} --threads {threads}"
SHARD = "shards/{shard}-of-{shards}"
GPU = 0 if CONFIG.runtime.device == "cpu" else 1

if "DVC_STAGE" in os.environ:
    check_mirror(Path("dvc.yaml"), Path(CONFIG_FILE), SEEDS)


wildcard_constraints:
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",
    checkpoint="|".join(CHECKPOINTS),


def model(folder):
    """Files of one language model."""
    return multiext(f"{folder}/model/", "model.safetensors", "config.json", "tokenizer.json")


def shards_of(pattern):
    """One file of every shard of a checkpoint; seed and checkpoint stay wildcards."""
    return [pattern.replace("{shard}", str(k)).replace("{shards}", str(SHARDS)) for k in range(SHARDS)]


def tokens(path):
    """Files of one store of image tokens."""
    return multiext(f"{path}.", "npy", "json")


def parent(wildcards):
    """Folder of the checkpoint this one grows from."""
    return f"{ROOT}/seed{wildcards.seed}/{CONFIG.checkpoints[wildcards.checkpoint].parent}"


def code(stage):
    """Digest of the modules behind a stage: Snakemake cannot see code behind a shell command."""
    return provenance.code_of(stage)


def settings(stage):
    """The values of the config keys a stage reads, for the checkpoint of a job."""

    def of(wildcards):
        read = provenance.params_of(CONFIG, stage, wildcards.get("checkpoint"))
        return json.dumps(read, sort_keys=True)

    return of
