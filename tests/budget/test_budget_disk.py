"""The budget's bytes against real files, and its numbers of files against Snakemake's own list of jobs."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hermesflow.budget import disk, plan
from hermesflow.config.load import load_config
from hermesflow.config.tree import reference_of
from hermesflow.core.files import write_table
from hermesflow.core.images import ImageForm, write_images
from hermesflow.models.backbone import new_model
from hermesflow.models.codecs import image_form
from hermesflow.models.lengths import Lengths
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.costs import saved_bytes
from hermesflow.models.showo.costs.decoder import Decoder
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.selfplay.preferences import Candidate, Pair, captions_table, image_arrays, images_table
from hermesflow.training.logps import Logps

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "config" / "micro.yaml"
CONFIG = load_config(MICRO)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def planned(config, rule, checkpoint=None, benchmark=None):
    return disk.disk_of(config, rule, checkpoint, Decoder.of(config), Lengths.of(config), benchmark)


def test_eighty_thousand_images_take_at_most_200_megabytes():
    assert disk.token_store(5000, 16, 1024) <= 200e6


def test_token_store(tmp_path):
    codes = np.random.default_rng(0).integers(0, 8192, (40, 16, 1024))
    write_images(
        tmp_path / "images.npy", [f"journeydb-{k:08}" for k in range(40)], codes, ImageForm("codes", (1024,), "uint16")
    )
    assert size(tmp_path) == pytest.approx(disk.token_store(40, 16, 1024), rel=0.01)
    assert size(tmp_path) <= disk.token_store(40, 16, 1024)


def test_preferences(tmp_path):
    config = replace(
        CONFIG,
        data=replace(CONFIG.data, pairs=200, image_size=24 * 32),
        image_tokenizer=replace(CONFIG.image_tokenizer, codebook_bits=13),
    )
    form = image_form(config.data.image_size, config.image_tokenizer)
    images = np.random.default_rng(0).integers(0, 8192, (200, 2, *form.shape)).astype(form.dtype)
    pairs = {f"p{k}": Pair(Candidate(a.tobytes(), 1.0), Candidate(b.tobytes(), 0.5)) for k, (a, b) in enumerate(images)}
    write_images(tmp_path / "images.npy", list(pairs), image_arrays(pairs, form), form)
    write_table(tmp_path / "images.parquet", images_table(pairs))
    words = {key: Pair(Candidate("a red circle", 1.0), Candidate("a", 0.5)) for key in pairs}
    write_table(tmp_path / "captions.parquet", captions_table(words))
    write_table(tmp_path / "preferences.parquet", captions_table(words).merge(images_table(pairs), on="id"))
    assert 0.7 * planned(config, "prefer") < size(tmp_path) < planned(config, "prefer")


def test_weights(tmp_path):
    new_model(CONFIG, seed=0).save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    assert weights.stat().st_size == pytest.approx(planned(CONFIG, "base"), rel=0.01)
    ShowOCodec(MagVitV2(CONFIG.image_tokenizer), CONFIG.data.image_size).save(tmp_path / "tokenizer")
    found = (tmp_path / "tokenizer" / "model.safetensors").stat().st_size
    assert found == pytest.approx(saved_bytes(CONFIG.image_tokenizer), rel=0.01)


def test_reference_table(tmp_path):
    import pandas as pd

    rows = CONFIG.training.steps * CONFIG.training.batch_size
    values = np.random.default_rng(0).random((rows, 4)).astype(np.float32)
    table = pd.DataFrame(values, columns=list(Logps._fields))
    table.insert(0, "id", [f"pairs-{k:05}" for k in range(rows)])
    table.insert(1, "pass", 0)
    write_table(tmp_path / "reference.parquet", table)
    assert 0.3 * planned(CONFIG, "reference", "pair-1") < size(tmp_path) < planned(CONFIG, "reference", "pair-1")


def test_files_of_benchmarks_are_those_that_snakemake_lists():
    command = [sys.executable, "workflow/scripts/jobs.py", "config/showo.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    jobs = [job for line in done.stdout.splitlines() if "benchmark" in (job := json.loads(line))["wildcards"]]
    config = load_config(ROOT / "config" / "showo.yaml")
    found, files = Counter(), Counter()
    for job in jobs:
        found[job["rule"], job["wildcards"]["checkpoint"], job["wildcards"]["benchmark"]] += 1
        files[job["rule"]] += len(job["output"]) + disk.JOB_FILES
    rules = {"draw", "gather_drawn", "grade", "understand"}
    assert set(files) == rules
    places = [one for one in plan.places(config) if one.rule in rules]
    assert {(one.rule, one.checkpoint, one.benchmark): one.jobs for one in places} == dict(found)
    assert files == {
        rule: disk.files_of(config, rule, sum(n for (r, *_), n in found.items() if r == rule)) for rule in rules
    }


def test_images_of_benchmarks_are_kept_as_tokens():
    """(553 x 4 + 1065 x 4 + 30,000 + 1,000) images of 1,024 tokens of two bytes, beside ids."""
    tokens = (553 * 4 + 1065 * 4 + 30_000 + 1_000) * 1024 * 2
    config = load_config(ROOT / "config" / "showo.yaml")
    names = ("geneval", "dpg", "coco", "gap")
    assert tokens < sum(planned(config, "gather_drawn", benchmark=name) for name in names) < 1.02 * tokens


def test_files_of_every_rule_are_those_that_snakemake_lists(tmp_path):
    """At the paper's numbers of seeds and shards, no rule writes more than 1,000 files."""
    raw = yaml.safe_load(MICRO.read_text())
    raw["seeds"], raw["runtime"]["shards"] = [0, 1, 2], 8
    raw["training"]["lora"] = {"rank": 2, "alpha": 4.0, "targets": ["fc1"]}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(raw))
    command = [sys.executable, "workflow/scripts/jobs.py", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    config = load_config(file)
    found, outputs = Counter(), Counter()
    for job in jobs:
        if job["rule"] != "all":
            found[job["rule"], job["wildcards"].get("checkpoint")] += 1
            outputs[job["rule"]] += len(job["output"]) + disk.JOB_FILES
    named = {"base", "agreement"}  # rules of the base model alone, which have no wildcard for it
    places = Counter()
    for one in plan.places(config):
        # that of the first checkpoint trained against it, which Snakemake knows by the reference itself
        own = reference_of(config, one.checkpoint).checkpoint if one.rule == "reference" else one.checkpoint
        places[one.rule, None if one.rule in named else own] += one.jobs
    assert places == found
    assert outputs == {
        rule: disk.files_of(config, rule, sum(n for (r, _), n in found.items() if r == rule)) for rule in outputs
    }
    assert max(outputs.values()) <= 1000
