"""Slurm's warning: real processes are told to stop, and the same command goes on with their work."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hermesflow import tracking
from hermesflow.artifacts import Layout
from hermesflow.errors import Interrupted
from hermesflow.interruption import ECHO, Interruption
from hermesflow.stages import prefer, reference, train
from pair_world import CommandLine, make_world, small_config

CHECKPOINT = "pair-1"
TRAINING = {"steps": 80, "checkpoint_every": 8, "micro_batch_size": 2}
DDP = {"train_processes": 2, "accelerate": str(Path(__file__).parents[1] / "config" / "accelerate" / "ddp.yaml")}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """`results` with everything that train needs; `straight` is trained already, without a stop."""
    folder = tmp_path_factory.mktemp("world")
    config = small_config(**TRAINING)
    layout = make_world(folder / "results" / "smoke", config)
    for stage in (prefer, reference):
        stage.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    shutil.copytree(folder / "results", folder / "straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "open_run", lambda *args, **kwargs: None)
        train.run(config, Layout(folder / "straight" / "smoke"), seed=0, checkpoint=CHECKPOINT)
    return folder


def stop_when_it_trains(job: subprocess.Popen[str], states: Path, number: signal.Signals) -> str:
    """Send a signal once the first state is written; what the job said on stderr."""
    while not list(states.glob("step-*")):
        assert job.poll() is None, job.communicate()[1][-3000:]
        time.sleep(0.01)
    job.send_signal(number)
    return job.communicate(timeout=120)[1]


@pytest.mark.parametrize(
    ("stage", "runtime", "number"),
    [(("train",), {}, signal.SIGTERM), (("launch", "train"), DDP, signal.SIGTERM), (("train",), {}, signal.SIGUSR1)],
    ids=["alone", "two processes", "alone, SIGUSR1"],
)
def test_a_warned_training_asks_to_be_run_again_and_loses_nothing(world, tmp_path, stage, runtime, number):
    shutil.copytree(world / "results", tmp_path / "results")
    line = CommandLine(tmp_path, runtime=runtime, training=TRAINING)
    folder = tmp_path / "results" / "smoke" / "seed0" / CHECKPOINT
    job = line.start(*stage)
    told = stop_when_it_trains(job, folder / "state", number)
    assert job.returncode == Interrupted.status == 75, told[-3000:]
    assert told.count("stopped after step") == 1
    assert "the same command goes on" in told
    assert "Traceback" not in told
    (state,) = (folder / "state").iterdir()
    assert f"stopped after step {int(state.name.removeprefix('step-'))} of 80" in told
    assert not (folder / "model").exists()

    line.run(*stage)
    trained = world / "straight" / "smoke" / "seed0" / CHECKPOINT / "model"
    for file in ("model.safetensors", "history.csv"):
        assert (folder / "model" / file).read_bytes() == (trained / file).read_bytes(), file
    assert not (folder / "state").exists()


def test_a_launcher_warned_before_it_has_started_anything(world, tmp_path):
    line = CommandLine(tmp_path, runtime=DDP, training=TRAINING)
    job = line.start("launch", "train", TORCHELASTIC_ERROR_FILE="")
    time.sleep(0.2)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=60) in (Interrupted.status, -signal.SIGTERM)


def test_a_warning_is_echoed_but_a_second_one_ends_the_process():
    script = (
        "import os, signal, time\n"
        "from hermesflow.interruption import Interruption\n"
        "with Interruption() as interruption:\n"
        "    for wait in (0, 0.1, 0.1):\n"
        "        time.sleep(wait)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('here', flush=True)\n"
        f"    interruption._since -= {ECHO}\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('not here')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "here\n"
    assert done.returncode == -signal.SIGTERM


def test_signals_get_their_meaning_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
