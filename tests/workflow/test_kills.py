"""`make smoke`, killed at ten random moments and started again, ends with the files of a run that was left alone.

Some ten minutes: `make test-kills`.
"""

import os
import random
import signal
import subprocess
import time

import pytest

from .conftest import make_clone
from .test_real_run import digests

KILLS = 10
SEED = int(os.environ.get("KILL_SEED", "0"))


@pytest.mark.kills
def test_smoke_killed_ten_times_ends_with_the_same_files(tmp_path):
    alone, killed = (make_clone(tmp_path / name) for name in ("alone", "killed"))
    alone.name = killed.name = "smoke"
    command = ("workflow/run", "--configfile", "config/smoke.yaml")
    began = time.monotonic()
    alone.run(*command)
    whole = time.monotonic() - began
    moments, progress = random.Random(SEED), []
    for _ in range(KILLS):
        with (killed.root / "out.log").open("a") as log:
            running = subprocess.Popen(
                command, cwd=killed.root, env=killed.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            time.sleep(moments.uniform(3, whole / 3))
            progress.append(running.poll())
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    assert progress.count(None) >= 3, f"the run was over before most kills: {progress}"
    killed.run(*command)
    assert digests(killed) == digests(alone)
    assert digests(alone)
