"""Slurm's warning: real processes are told to stop, and the same command goes on with their work."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from hermesflow.core.errors import Interrupted
from hermesflow.core.files import Layout
from hermesflow.stages import prefer, train
from hermesflow.tracking import runs
from hermesflow.training.interruption import ECHO, Interruption
from tests.support.pair_world import CommandLine, make_world, score_reference, small_config
from tests.support.steps import step_server

CHECKPOINT = "pair-1"
RULE = Path(__file__).parents[2] / "workflow" / "rules" / "train.smk"
ACCELERATOR = SimpleNamespace(device="cpu", reduce=lambda told, reduction: told)
TRAINING = {"steps": 32, "checkpoint_every": 4, "micro_batch_size": 2}
DDP = {"train_processes": 2, "accelerate": str(Path(__file__).parents[2] / "config" / "accelerate" / "ddp.yaml")}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """`results` with everything that train needs; `straight` is trained already, without a stop."""
    folder = tmp_path_factory.mktemp("world")
    config = small_config(**TRAINING)
    layout = make_world(folder / "results" / "smoke", config)
    prefer.run(config, layout, seed=0, checkpoint=CHECKPOINT)
    score_reference(config, layout, CHECKPOINT)
    shutil.copytree(folder / "results", folder / "straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "open_run", lambda *args, **kwargs: nullcontext())
        train.run(config, Layout(folder / "straight" / "smoke"), seed=0, checkpoint=CHECKPOINT)
    return folder


def command_of_the_rule(launch: str) -> str:
    """What Snakemake runs for the checkpoint, in a folder with `config.yaml`."""
    text = re.search(r'\n    shell:\n((?:        ".*"\n)+)', RULE.read_text())[1]
    wildcards = SimpleNamespace(seed=0, checkpoint=CHECKPOINT)
    values = {"CONFIG": small_config(), "CONFIG_FILE": "config.yaml", "wildcards": wildcards, "log": "train.log"}
    return ast.literal_eval(f"({text})").format(LAUNCH=f"{sys.executable} -m hermesflow {launch}", **values)


def stop_when_it_trains(job: subprocess.Popen[str], states: Path) -> None:
    """Warn every process of a job, as Slurm does, once the first state is written."""
    while not list(states.glob("step-*")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGTERM)


@pytest.mark.parametrize(("launch", "runtime"), [("", {}), ("launch", DDP)], ids=["alone", "two processes"])
def test_a_warned_training_asks_to_be_run_again_and_loses_nothing(world, tmp_path, launch, runtime):
    shutil.copytree(world / "results", tmp_path / "results")
    line = CommandLine(tmp_path, runtime=runtime, training=TRAINING)
    folder = tmp_path / "results" / "smoke" / "seed0" / CHECKPOINT
    shell = ["bash", "-c", f"set -euo pipefail; {command_of_the_rule(launch)}"]
    job = subprocess.Popen(shell, cwd=tmp_path, env=line.environment(), start_new_session=True)
    stop_when_it_trains(job, folder / "state")
    assert job.wait(timeout=120) == Interrupted.status == 75
    told = (tmp_path / "train.log").read_text()
    assert told.count("stopped after step") == 1
    assert "the same command goes on" in told
    assert "Traceback" not in told
    (state,) = (folder / "state").iterdir()
    assert f"stopped after step {int(state.name.removeprefix('step-'))} of {TRAINING['steps']}" in told
    assert not (folder / "model").exists()

    line.run(*launch.split(), "train", **step_server())
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
        "from hermesflow.training.interruption import Interruption\n"
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_get_their_meaning_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.wished_by_any(ACCELERATOR)
        os.kill(os.getpid(), number)
        assert interruption.wished_by_any(ACCELERATOR)
    assert signal.getsignal(number) == before
