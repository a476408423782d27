"""Stages one after the other in one process, which imports torch and transformers once."""

import sys

PROGRAM = """
import shlex, sys
from hermesflow.cli.main import main
for line in sys.argv[1:]:
    if main(shlex.split(line)):
        sys.exit(f"{line} failed")
"""


def one_process(lines):
    """The command that runs some command lines of `hermesflow`, up to the first that fails."""
    return [sys.executable, "-c", PROGRAM, *lines]
