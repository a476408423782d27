"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DEFAULT_CONFIG = Path("config/pictures.yaml")
CHECKPOINT = ("seed", "checkpoint")
SHARD = (*CHECKPOINT, "shard", "shards")
BENCHMARK = (*CHECKPOINT, "benchmark")
REFERENCE = (*CHECKPOINT, "variant")


def new_command(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    """A subcommand with the options --config and --results."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default %(default)s")
    command.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    command.set_defaults(run=run)
    return command


def add_option(command: argparse.ArgumentParser, option: str, *, required: bool = True) -> None:
    """One of seed, seeds, checkpoint, benchmark, shard, shards, variant."""
    if option == "seeds":
        command.add_argument("--seeds", type=count, nargs="+", required=required, help="run seeds")
    elif option == "checkpoint":
        command.add_argument("--checkpoint", required=required, help="a name in `checkpoints`, or base")
    elif option == "benchmark":
        command.add_argument("--benchmark", required=required, help="a name in `benchmarks`, or a column of it")
    elif option == "variant":
        command.add_argument("--variant", required=required, help="candidates, steps and what else differs: all-3000")
    else:
        kind = positive if option == "shards" else count
        command.add_argument(f"--{option}", type=kind, required=required)


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value
