"""What goes wrong on clusters: after each accident and at most one more run, the tables are those of a local run."""

import os
import subprocess
import time

import pytest

from tests.workflow.test_real_run import digests

from .conftest import NODES, MlflowServer, wait_until

pytestmark = pytest.mark.faults


def state_of(clone, step):
    """Whether training has kept a state of this step or a later one."""
    kept = clone.results.glob("seed0/pair-1/state/step-*")
    return any(int(path.name.removeprefix("step-")) >= step for path in kept)


def finish(clone, job, local):
    """Wait for a run that must end well, and compare."""
    assert job.wait(600) == 0, clone.out[-6000:]
    assert digests(clone) == local[1]
    return clone.out


def train_log(clone):
    return (clone.results / "logs" / "train-seed0-pair-1.log").read_text()


def test_a_sampling_job_is_cancelled(clone, local, slurm):
    job = clone.start(*clone.command)
    victim = wait_until(lambda: slurm.running("sample"), "sampling")[0]
    slurm.run("scancel", victim["id"])
    out = finish(clone, job, local)
    assert f"SLURM-job '{victim['id']}' failed, SLURM status is: 'CANCELLED'" in out
    assert "Trying to restart job" in out


def test_a_node_dies_in_training(clone, local, slurm):
    job = clone.start(*clone.command)
    wait_until(lambda: state_of(clone, 5), "training")
    victim = slurm.running("train")[0]
    slurm.fail_node(victim["node"])
    try:
        here, other = victim["node"], next(node for node in NODES if node != victim["node"])
        moved = wait_until(lambda: [j for j in slurm.running("train") if j["node"] == other], f"from {here} to {other}")
        assert moved[0]["id"] == victim["id"]
        finish(clone, job, local)
    finally:
        slurm.mend_node(victim["node"])
    assert slurm.restarts(victim["id"]) == 1
    assert "resuming after step" in train_log(clone)


def test_the_controller_is_away_for_a_while(clone, local, slurm):
    job = clone.start(*clone.command)
    wait_until(lambda: slurm.running("sample"), "sampling")
    slurm.kill_controller()
    time.sleep(20)
    slurm.start_controller()
    finish(clone, job, local)


def test_slurm_warns_training_of_the_time_limit(clone, local, slurm):
    job = clone.start(*clone.command)
    wait_until(lambda: state_of(clone, 5), "training")
    victim = slurm.running("train")[0]["id"]
    slurm.run("scancel", "--signal=TERM", victim)  # to the job's steps, as `sbatch --signal=TERM@300` does
    out = finish(clone, job, local)
    assert f"SLURM-job '{victim}' failed" in out
    assert "resuming after step" in train_log(clone)


def test_the_mlflow_server_dies_in_training_and_comes_back(clone, local, tmp_path):
    server = MlflowServer(tmp_path / "mlflow")
    server.start()
    clone.more = {"MLFLOW_TRACKING_URI": server.uri}
    job = clone.start(*clone.command)
    try:
        wait_until(lambda: state_of(clone, 5), "training")
        server.kill()
        wait_until(lambda: state_of(clone, 50), "training without the server")
        server.start()
        finish(clone, job, local)
        assert "nothing is lost" in train_log(clone)
        clone.run("hermesflow", "sync")
        assert server.steps("pair-1, seed 0", "loss") == list(range(1, 151))
    finally:
        server.kill()


def test_two_runs_in_one_folder(clone, local, slurm):
    job = clone.start(*clone.command)
    wait_until(lambda: slurm.running("sample"), "sampling")
    second = clone.run(*clone.command, check=False)
    assert "Another run is going on in" in second
    third = clone.run("snakemake", *clone.command[1:], check=False)
    assert "Directory cannot be locked" in third
    finish(clone, job, local)


def test_the_disk_is_full(clone, local, slurm):
    results = clone.root / "results"
    kept = clone.root / "kept"
    results.rename(kept)
    results.mkdir()
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 600_000}", "tmpfs", results], check=True)
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", results], check=True)
        job = clone.start(*clone.command)
        assert job.wait(600) == 1
        assert "No space left" in clone.out
        subprocess.run(["mount", "-o", "remount,size=1G", results], check=True)
        finish(clone, clone.start(*clone.command), local)
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)
        os.rmdir(results)
