"""Servers that fork what tests start again and again, as `workflow/run` starts one for the steps of a run."""

import atexit
import os
import subprocess
import tempfile
import time
from pathlib import Path


def start_server(command: list[str], env: dict[str, str]) -> Path:
    """Start a command that serves forks at the socket behind its arguments, until this process ends; that socket."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "socket"
    server = subprocess.Popen([*command, str(path)], env={**env, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE)
    atexit.register(_end, os.getpid(), server, folder)
    while not path.exists():
        assert server.poll() is None
        time.sleep(0.01)
    return path


def _end(process: int, server: subprocess.Popen, folder: tempfile.TemporaryDirectory) -> None:
    if process == os.getpid():  # a fork of it leaves the server alone
        server.stdin.close()
        server.wait()
        folder.cleanup()
