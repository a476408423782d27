"""A server that forks steps of training, as that of `workflow/run` does, without MLflow: where no start is tested."""

import sys
from functools import cache

from hermesflow.cli.forks import SOCKET
from tests.support.fork_server import start_server
from tests.support.pair_world import environment

SERVER = """
import sys
from pathlib import Path
from hermesflow.cli import forks, main
sys.modules["mlflow"] = None  # importing it fails
modules = ("hermesflow.stages.reference", "hermesflow.stages.train", "hermesflow.models.showo.model")
sys.exit(forks.serve(Path(sys.argv[1]), modules, main.main))
"""


@cache
def step_server() -> dict[str, str]:
    """Start it once in a process; the environment of steps that it forks."""
    return {SOCKET: str(start_server([sys.executable, "-c", SERVER], environment()))}
