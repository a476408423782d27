"""The same training on one and on two processes, with whole and with sharded weights: real processes, over gloo."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from hermesflow.core.files import Layout, read_json, read_weights
from hermesflow.stages import prefer
from tests.support.pair_jobs import CHECKPOINT, run_job
from tests.support.pair_world import environment, make_world, small_config
from tests.support.stopping_world import write_judged

CONFIGS = Path(__file__).parents[2] / "config" / "accelerate"
MICRO = {"micro_batch_size": 2}
REFUSAL = "step 4: the norm of the gradients is nan: that of parameter `showo."
STEPS_20 = {"steps": 20, "learning_rate": 3e-3}
STOPS = {**MICRO, "steps": 24, "learning_rate": 2e-3, "warmup_steps": 2}
ALONE = [
    {"name": "whole-1", "training": STEPS_20},
    {"name": "micro-1", "training": MICRO},
    {"name": "adapters-1", "training": {}, "lora": True},
    {"name": "from-1-to-2", "training": MICRO, "stop_at": 3},
    {"name": "stopped-1", "training": STOPS, "stopping": True},
    {"name": "stopped-from-1-to-2", "training": STOPS, "stopping": True, "stop_at": 9},
]
SHARED = [
    {"name": "whole-2", "training": STEPS_20},
    {"name": "micro-2", "training": MICRO},
    {"name": "from-1-to-2", "training": MICRO, "stages": ["train"]},
    {"name": "from-2-to-1", "training": MICRO, "stop_at": 3},
    {"name": "poisoned-2", "training": MICRO, "poison": 4},
    {"name": "stopped-2", "training": STOPS, "stopping": True},
    {"name": "stopped-from-1-to-2", "training": STOPS, "stopping": True, "stages": ["train"]},
]
SHARDED = [
    {"name": "sharded-2", "training": STEPS_20},
    {"name": "sharded-adapters-2", "training": {}, "lora": True, "runtime": {"activation_checkpointing": True}},
    {"name": "sharded-from-2-to-1", "training": MICRO, "stop_at": 3},
    {"name": "sharded-poisoned-2", "training": MICRO, "poison": 4},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Results of jobs on one process (-1) and on two (-2), and of jobs that changed their number half-way."""
    folder = tmp_path_factory.mktemp("jobs")
    make_world(folder / "world", small_config())
    prefer.run(small_config(), Layout(folder / "world"), seed=0, checkpoint=CHECKPOINT)
    write_judged(small_config(), Layout(folder / "world"))
    for name in {job["name"] for job in ALONE + SHARED + SHARDED}:
        shutil.copytree(folder / "world", folder / name)
    for job in ALONE:
        run_job(folder, **job)
    assert not model_of(folder, "from-1-to-2").exists()
    told = launch(
        folder,
        ("ddp.yaml", 2, SHARED),
        ("ddp.yaml", 2, again("poisoned-2")),
        ("fsdp.yaml", 2, SHARDED),
        ("fsdp.yaml", 1, again("sharded-from-2-to-1", "sharded-poisoned-2")),
    )
    assert told.count(REFUSAL) == 2 * told.count(f"sharded-poisoned-2: train pair-1, seed 0, {REFUSAL}") == 4
    shards = re.findall(r"sharded-from-2-to-1: [^[]* (\[.*?\])", told)
    assert shards == ["['__0_0.distcp', '__1_0.distcp']"] * 2, "the state is not sharded"
    assert not model_of(folder, "from-2-to-1").exists()
    run_job(folder, name="from-2-to-1", training=MICRO, stages=("train",))
    return folder


def again(*names: str) -> list[dict]:
    """Jobs that go on with a training."""
    return [{"name": name, "training": MICRO, "stages": ["train"]} for name in names]


def launch(folder: Path, *launches: tuple[str, int, list[dict]]) -> str:
    """Jobs with an accelerate config file on a number of processes, launches one after the other; what they said."""
    asked = [(str(CONFIGS / config), processes, jobs) for config, processes, jobs in launches]
    script = Path(__file__).parents[1] / "support" / "pair_jobs.py"
    command = [sys.executable, str(script), str(folder), json.dumps(asked)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def model_of(folder: Path, name: str) -> Path:
    return Layout(folder / name).checkpoint(0, CHECKPOINT) / "model"


def history_of(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(model_of(folder, name) / "history.csv")


def test_losses_of_20_steps_agree(folder):
    """Without micro batches the two processes round differently: 1e-5 relative, in float32."""
    one, two = history_of(folder, "whole-1"), history_of(folder, "whole-2")
    assert len(one) == 20
    assert one["loss"].iloc[-1] < 0.8 * one["loss"].iloc[0]
    pd.testing.assert_series_equal(one["loss"], two["loss"], rtol=1e-5, atol=0)
    assert not one["grad_norm"].equals(two["grad_norm"]), "one process was compared with itself"


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/history.csv", "../base/reference/all-6.parquet"])
@pytest.mark.parametrize("name", ["micro-2", "from-1-to-2", "from-2-to-1", "poisoned-2"])
def test_two_micro_batches_are_the_same_to_the_last_bit(folder, name, file):
    """Adding two of them is the same in either order and place; halving is exact.

    Where a gradient of one process was nan at step 4, both stopped before it and went on from the state of step 2.
    """
    one, other = (model_of(folder, n).parent / file for n in ("micro-1", name))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["stopped-2", "stopped-from-1-to-2"])
def test_processes_stop_together_and_keep_the_same_weights_as_one(folder, name):
    history = history_of(folder, name)
    assert 8 < len(history) < 24 and history["strict_acceptance"].count() == len(history) // 2
    kept = [read_json(model_of(folder, one) / "manifest.json")["stopping"]["step"] for one in ("stopped-1", name)]
    assert kept[0] == kept[1] == len(history) - 4
    for file in ("model.safetensors", "history.csv"):
        assert (model_of(folder, "stopped-1") / file).read_bytes() == (model_of(folder, name) / file).read_bytes()


@pytest.mark.parametrize(
    ("alone", "other"),
    [
        ("whole-1", "sharded-2"),
        ("adapters-1", "sharded-adapters-2"),
        ("micro-1", "sharded-from-2-to-1"),
        ("micro-1", "sharded-poisoned-2"),
    ],
)
def test_sharded_weights_learn_the_same_and_are_gathered_at_the_end(folder, alone, other):
    one, two = history_of(folder, alone), history_of(folder, other)
    pd.testing.assert_series_equal(one["loss"], two["loss"], rtol=1e-5, atol=0)
    pd.testing.assert_series_equal(one["grad_norm"], two["grad_norm"], rtol=1e-4, atol=0)
    weights, gathered = (read_weights(model_of(folder, name) / "model.safetensors") for name in (alone, other))
    assert weights.keys() == gathered.keys()
    flat, other_flat = (torch.cat([found[key].flatten() for key in weights]) for found in (weights, gathered))
    # not one by one: a key's bias has no gradient but rounding, which AdamW blows up
    assert torch.linalg.vector_norm(flat - other_flat) < 1e-3 * torch.linalg.vector_norm(flat)


def test_adapters_of_sharded_weights_are_gathered_too(folder):
    paths = [model_of(folder, name) / "adapter" for name in ("adapters-1", "sharded-adapters-2")]
    assert (
        paths[0].joinpath("adapter_config.json").read_bytes() == paths[1].joinpath("adapter_config.json").read_bytes()
    )
    one, two = (read_weights(path / "adapter_model.safetensors") for path in paths)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_no_state_is_left(folder):
    assert not list(folder.rglob("state"))
