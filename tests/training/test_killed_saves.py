"""A training that is killed, or finds the disk full, at any file boundary of a save goes on to the same weights."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.pair_world import environment

KINDS = {f"kill at {event}" for event in ("open", "torn", "os.mkdir", "os.rename", "os.remove", "os.rmdir")}


def test_every_boundary_of_a_save_leaves_a_whole_state(tmp_path):
    script = Path(__file__).parents[1] / "support" / "killed_saves.py"
    done = subprocess.run([sys.executable, script, tmp_path], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for processes in ("1", "2"):
        counts, failures = report[processes]["counts"], report[processes]["failures"]
        assert not failures, f"{len(failures)} of {sum(counts.values())}:\n" + "\n".join(failures[:20])
        assert counts.keys() >= KINDS and counts["full at torn"] >= 4, counts
