# The one config file of a run, validated; nothing else sets a value.
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from hermesflow.config import digests
from hermesflow.config.benchmarks import BENCHMARKS, COLUMNS, IMAGE_BENCHMARKS
from hermesflow.config.experiment import BASE, has_judge
from hermesflow.config.load import load_config
from hermesflow.config.reads import params_of
from hermesflow.config.tree import generations_after, reference_of, training_of
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import Layout, atomic, content_digest, read_json, sha256
from hermesflow.cli.dvc import check_benchmarks, check_mirror, digests_file, mirrored_stages
from hermesflow.cli.options import DEFAULT_CONFIG
from hermesflow.cli.running import hold_folder

FOLDER_LOCK = hold_folder(Path(".snakemake"))


def _config_file():
    if len(workflow.configfiles) > 1:
        raise ConfigError("Pass one --configfile; its line `extends: OTHER.yaml` takes over the keys of another file.")
    return os.path.relpath(workflow.configfiles[0]) if workflow.configfiles else str(DEFAULT_CONFIG)


def _seeds(path):
    # Not `configfile:`: it would merge the default's keys into every other config.
    plain = yaml.safe_load(Path(path).read_text()) if workflow.configfiles else {}
    other = [key for key, value in config.items() if key != "seeds" and plain.get(key) != value]
    if other:
        raise ConfigError(f"--config {other[0]}=...: only `seeds` can be set there; change {path} for the rest.")
    return sorted(config.get("seeds", CONFIG.seeds))


CONFIG_FILE = _config_file()
CONFIG = load_config(CONFIG_FILE)
check_benchmarks(CONFIG, CONFIG_FILE)
SEEDS = _seeds(CONFIG_FILE)
STEPS = digests.step_digests(CONFIG)  # of what this run executes, whatever is written into the files meanwhile

if "DVC_STAGE" in os.environ:
    check_mirror(Path("dvc.yaml"), Path(CONFIG_FILE), SEEDS)
