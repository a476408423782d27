"""The same training on one and on two processes: real ones, over gloo."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hermesflow.artifacts import Layout
from hermesflow.stages import prefer
from pair_jobs import CHECKPOINT, run_job
from pair_world import environment, make_world, small_config

MICRO = {"micro_batch_size": 2}
STEPS_20 = {"steps": 20, "learning_rate": 3e-3}
SHARED = [
    {"name": "whole-2", "training": STEPS_20},
    {"name": "micro-2", "training": MICRO},
    {"name": "from-1-to-2", "training": MICRO, "stages": ["train"]},
    {"name": "from-2-to-1", "training": MICRO, "stop_at": 3},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Results of jobs on one process (-1) and on two (-2), and of jobs that changed their number half-way."""
    folder = tmp_path_factory.mktemp("jobs")
    make_world(folder / "world", small_config())
    prefer.run(small_config(), Layout(folder / "world"), seed=0, checkpoint=CHECKPOINT)
    alone = [
        {"name": "whole-1", "training": STEPS_20},
        {"name": "micro-1", "training": MICRO},
        {"name": "from-1-to-2", "training": MICRO, "stop_at": 3},
    ]
    for name in {job["name"] for job in alone + SHARED}:
        shutil.copytree(folder / "world", folder / name)
    for job in alone:
        run_job(folder, **job)
    assert model_of(folder, "from-1-to-2") is None
    run_on_two_processes(folder, SHARED)
    assert model_of(folder, "from-2-to-1") is None
    run_job(folder, name="from-2-to-1", training=MICRO, stages=("train",))
    return folder


def run_on_two_processes(folder: Path, jobs: list[dict]) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(Path(__file__).with_name("pair_jobs.py")), str(folder), json.dumps(jobs)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def model_of(folder: Path, name: str) -> Path | None:
    path = Layout(folder / name).checkpoint(0, CHECKPOINT) / "model"
    return path if path.exists() else None


def test_losses_of_20_steps_agree(folder):
    """Without micro batches the two processes round differently: 1e-5 relative, in float32."""
    one, two = (pd.read_csv(model_of(folder, f"whole-{n}") / "history.csv") for n in (1, 2))
    assert len(one) == 20
    assert one["loss"].iloc[-1] < 0.8 * one["loss"].iloc[0]
    pd.testing.assert_series_equal(one["loss"], two["loss"], rtol=1e-5, atol=0)
    assert not one["grad_norm"].equals(two["grad_norm"]), "one process was compared with itself"


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/history.csv", "preferences/reference.parquet"])
@pytest.mark.parametrize("name", ["micro-2", "from-1-to-2", "from-2-to-1"])
def test_two_micro_batches_are_the_same_to_the_last_bit(folder, name, file):
    """Adding two of them is the same in either order and place; halving is exact."""
    one, other = (Layout(folder / n).checkpoint(0, CHECKPOINT) / file for n in ("micro-1", name))
    assert one.read_bytes() == other.read_bytes()


def test_no_state_is_left(folder):
    assert not [path for path in folder.rglob("state")]
