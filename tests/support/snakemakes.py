"""Snakemake without its start: forks of a process that has imported it, by the server that steps are forked from.

It is Snakemake as the command starts it, and `workflow/scripts/jobs.py`, in a folder and an environment of their own;
what they import of this package comes from the PYTHONPATH that they are given. Libraries are imported once.
"""

import importlib
import os
import runpy
import socket
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from hermesflow.cli import forks

LIBRARIES = ("snakemake.cli", "snakemake_executor_plugin_slurm", "pandas", "pydantic", "pyarrow.parquet")
LIBRARY_FOLDERS = [
    folder for folder in sys.path[1:] if folder not in os.environ.get("PYTHONPATH", "").split(os.pathsep)
]
"""Where modules are found that neither PYTHONPATH names nor lie beside this one."""


@cache
def _server() -> Path:
    from tests.support.fork_server import start_server  # the server does without

    return start_server([sys.executable, __file__], dict(os.environ))


def run_snakemake(command: list[str], *, cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """Run `snakemake ...` or `python workflow/scripts/jobs.py ...`: its exit status, and all it said."""
    with tempfile.TemporaryFile("w+") as output, open(os.devnull) as nothing:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            while connection.connect_ex(str(_server())):  # bound, but it does not listen yet
                time.sleep(0.01)
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            forks.send_request(connection, command, folder=str(cwd), environment=env, streams=streams)
            status = int(connection.recv(64))
        output.seek(0)
        return status, output.read()


def _run(command: list[str]) -> int:
    """Be the command, in a fork."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "hermesflow"]:
        del sys.modules[name]
    sys.path[:] = [*os.environ["PYTHONPATH"].split(os.pathsep), *LIBRARY_FOLDERS]
    if command[0] == "snakemake":
        sys.argv = command
        sys.exit(importlib.import_module("snakemake.cli").main())
    sys.argv = command[1:]
    runpy.run_path(command[1], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(forks.serve(Path(sys.argv[1]), LIBRARIES, _run))
