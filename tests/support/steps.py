"""A server that forks steps of training, as that of `workflow/run` does, without MLflow: where no start is tested."""

import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from hermesflow.cli.forks import SOCKET
from tests.support.pair_world import environment

SERVER = """
import sys
from pathlib import Path
from hermesflow.cli import forks, main
modules = ("hermesflow.stages.reference", "hermesflow.stages.train", "hermesflow.models.showo.model")
sys.exit(forks.serve(Path(sys.argv[1]), modules, main.main))
"""


@cache
def step_server() -> dict[str, str]:
    """Start it, once in a process and until that ends; the environment of steps that it forks."""
    step_server.folder = tempfile.TemporaryDirectory()
    folder = Path(step_server.folder.name)
    (folder / "mlflow.py").write_text("raise ImportError('not in this test')\n")
    given = environment()
    env = {**given, "PYTHONPATH": os.pathsep.join([str(folder), given["PYTHONPATH"]])}
    command = [sys.executable, "-c", SERVER, str(folder / "socket")]
    step_server.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE)
    while not (folder / "socket").exists():
        assert step_server.process.poll() is None
        time.sleep(0.01)
    return {SOCKET: str(folder / "socket")}
