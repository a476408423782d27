import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from hermesflow.cli.running import LOCK, hold_folder

RUNNER = Path(__file__).parents[2] / "workflow" / "run"


@pytest.fixture
def folder(tmp_path):
    """A folder where `snakemake` is a stand-in that prints its arguments."""
    fake = tmp_path / "bin" / "snakemake"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "ran $*"\n')
    fake.chmod(0o755)
    return tmp_path


def run(folder, *arguments):
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    command = [RUNNER, *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)


def test_arguments_go_to_snakemake_and_a_stale_lock_is_cleared(folder):
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    done = run(folder, "--cores", "2", "a b")
    assert done.stdout == "ran --cores 2 a b\n"
    assert not locks.exists()


@pytest.mark.parametrize("kind", ["runner", "snakemake by hand"])
def test_two_runs_never_share_a_folder(folder, kind):
    locks = folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    if kind == "runner":
        other = (folder / ".snakemake" / LOCK).open("w")
        fcntl.flock(other, fcntl.LOCK_EX)
    else:
        other = hold_folder(folder / ".snakemake")
    with other:
        done = run(folder)
        assert done.returncode == 75
        assert "Another run is going on" in done.stderr
        assert str(folder) in done.stderr
        assert "ran" not in done.stdout
        assert locks.exists(), "a living run's lock was removed"
    assert run(folder).returncode == 0


def test_a_run_by_hand_beside_a_runner_is_left_to_snakemakes_own_lock(tmp_path):
    with (tmp_path / LOCK).open("w") as runner:
        fcntl.flock(runner, fcntl.LOCK_EX)
        assert hold_folder(tmp_path) is None


def test_many_readers_may_share(tmp_path):
    first, second = hold_folder(tmp_path), hold_folder(tmp_path)
    assert first is not None
    assert second is not None
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("workflow/profiles/slurm", "ran --workflow-profile workflow/profiles/slurm -n\n"),
        ("/site/profile", "ran -n\n"),
    ],
)
def test_a_profile_of_ours_replaces_the_default_one_and_a_sites_own_goes_with_it(folder, monkeypatch, profile, said):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", profile)
    assert run(folder, "-n").stdout == said
