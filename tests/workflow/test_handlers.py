"""What Snakemake does at the end of a run about records that MLflow has not got."""

import os
import subprocess
import sys

import pytest

from hermesflow.tracking import spool
from hermesflow.tracking.spool import Record, RunName, Spool

from .conftest import REPOSITORY

SNAKEFILE = f"""
import os, subprocess, sys
from pathlib import Path
from hermesflow.tracking import spool
ROOT = Path("results/tiny")
rule all:
    shell: "COMMAND"
include: "{REPOSITORY}/workflow/rules/handlers.smk"
"""


def run(folder, command, uri):
    (folder / "Snakefile").write_text(SNAKEFILE.replace("COMMAND", command))
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "DVC_STAGE": "none", "MLFLOW_TRACKING_URI": uri}
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
    return subprocess.run(snakemake, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("false", 1)])
def test_a_server_that_is_still_away_changes_nothing_but_is_told_of(command, status, tmp_path):
    own = Spool(tmp_path / "results")
    own.add(Record(None, RunName("tiny", "base, seed 0", {"seed": "0"}, {}), "run", 1, {}))
    own._lock.close()
    done = run(tmp_path, command, "http://127.0.0.1:9")
    assert done.returncode == status
    assert "hermesflow sync: MLflow (http://127.0.0.1:9) does not answer" in done.stderr
    assert len(spool.waiting(tmp_path / "results")) == 1
