"""Stage `understand` with the real lmms-eval on a tiny checkpoint, from a local task to the benchmark's files."""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from hermesflow.artifacts import Layout, read_json
from hermesflow.benchmark_sections import Benchmarks, Understanding
from hermesflow.config import load_config
from hermesflow.errors import ArtifactError
from hermesflow.evaluation.statistics import UNIT_COLUMNS
from hermesflow.lmms.results import figures_of
from hermesflow.stages import understand

from . import world
from .world import SHORT

pytestmark = pytest.mark.lmms
SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage")
    layout = Layout(folder / "results")
    world.checkpoint(folder)
    oracle = world.Oracle(folder)
    said = {key: oracle.says(key, f"What is g{key}?{SHORT}") for key in (1, 2)}
    tasks = folder / "tasks"
    world.gqa(tasks, [("g1", 1, said[1].upper() + "!"), ("g2", 2, "zebra")])
    world.flickr(tasks, [(n, ["zebra horse cow sheep bird"]) for n in (200, 201, 202)])
    (folder / "splits.json").write_text(json.dumps({"images": [{"filename": "1200.jpg", "split": "test"}]}))
    layout.checkpoint(0, "base").mkdir(parents=True)
    shutil.move(folder / "model", layout.checkpoint(0, "base") / "model")
    shutil.move(folder / "tokenizer", layout.tokenizer)
    own = Understanding(
        columns=("gqa", "flickr30k"), batch_size=2, python=sys.executable, tasks=str(tasks), cache=str(folder / "cache")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("HF_HOME", raising=False)
        config = replace(load_config(SMOKE), benchmarks=Benchmarks(understanding=own))
        yield config, layout, said


def run(config, layout, benchmark):
    understand.run(config, layout, seed=0, checkpoint="base", benchmark=benchmark)
    return layout.benchmark(0, "base", benchmark)


def with_(config, **changes):
    own = replace(config.benchmarks.understanding, **changes)
    return replace(config, benchmarks=replace(config.benchmarks, understanding=own))


def test_a_column_by_hand(made):
    """Of two questions one is answered as the record has it, but for case and punctuation."""
    config, layout, said = made
    folder = run(config, layout, "gqa")
    units = pd.read_parquet(folder / "units.parquet")
    assert tuple(units.columns) == UNIT_COLUMNS and figures_of(units) == {"gqa": 0.5}
    rows = pd.read_parquet(folder / "rows.parquet")
    assert dict(zip(rows["doc_id"], rows["answer"], strict=True)) == {0: said[1], 1: said[2]}
    assert list(rows["target"]) == [said[1].upper() + "!", "zebra"] and set(rows["task"]) == {"gqa"}
    facts = read_json(folder / "facts.json")
    assert facts["scorers"] == {"lmms-eval": "0.7.3"} and facts["protocol"] == "lmms-eval's tasks gqa"
    assert facts["items"] == 2 and facts["questions"] == {"gqa": 2}
    assert read_json(folder / "values.json") == {}
    assert read_json(folder / "manifest.json")["config"]["tasks"] == ["gqa_local"]
    assert len(list((folder / "lmms").glob("*/*_results.json"))) == 1
    assert any(Path(config.benchmarks.understanding.cache).iterdir())  # the data sets are where the config says


def test_karpathys_split_is_there_where_its_file_is_named(made):
    config, layout, _ = made
    folder = run(config, layout, "flickr30k")
    assert set(pd.read_parquet(folder / "units.parquet")["metric"]) == {"flickr30k/full/cider"}
    splits = Path(config.benchmarks.understanding.tasks).with_name("splits.json")
    folder = run(with_(config, karpathy=str(splits)), layout, "flickr30k")
    units = pd.read_parquet(folder / "units.parquet")
    assert units.groupby("metric").size().to_dict() == {"flickr30k/full/cider": 3, "flickr30k/karpathy/cider": 1}


def test_what_lmms_eval_says_of_an_error_is_told(made):
    config, layout, _ = made
    os.makedirs(layout.checkpoint(1, "base"), exist_ok=True)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be read"):
        understand.run(config, layout, seed=1, checkpoint="base", benchmark="gqa")
