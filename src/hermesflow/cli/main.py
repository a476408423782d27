"""The command line: one subcommand per rule, and a few for developers. The only place that reads argv.

    python -m hermesflow train --config config/pictures.yaml --seed 0 --checkpoint pair-1

Libraries are imported by the stage that needs them, so that a short step starts fast.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.cli import forks
from hermesflow.cli.commands import add_commands
from hermesflow.cli.options import BENCHMARK, CHECKPOINT, REFERENCE, SHARD, add_option, new_command, positive
from hermesflow.core.errors import HermesflowError, Interrupted, is_disk_full


@dataclass(frozen=True)
class Stage:
    """One subcommand that makes artifacts."""

    help: str
    takes: tuple[str, ...] = ()
    """Options that it is given, of `options.add_option`."""


STAGES: dict[str, Stage] = {
    "data": Stage("homologous pairs of every split"),
    "tokenizer": Stage("train the image tokenizer, or take released weights"),
    "encode": Stage("image tokens of the real images"),
    "judge": Stage("accuracy of the independent judge"),
    "clip": Stage("train the fixed image-text extractor"),
    "base": Stage("pre-train the base model, or take released weights", ("seed",)),
    "sample": Stage("caption and image candidates, one shard", SHARD),
    "gather_candidates": Stage("join the shards of candidates", (*CHECKPOINT, "shards")),
    "score": Stage("preference scores of candidates, one shard", SHARD),
    "gather_scores": Stage("join the shards of scores", (*CHECKPOINT, "shards")),
    "agreement": Stage("rank agreement of the scores with the judge", ("seed",)),
    "prefer": Stage("candidates to chosen and rejected", CHECKPOINT),
    "reference": Stage("log-probs under a checkpoint, for trainings from it", REFERENCE),
    "train": Stage("Pair-DPO", CHECKPOINT),
    "evaluate": Stage("benchmarks of one checkpoint", CHECKPOINT),
    "draw": Stage("images of one benchmark's prompts as tokens, one shard", (*BENCHMARK, "shard", "shards")),
    "gather_drawn": Stage("join the shards of a benchmark's images", (*BENCHMARK, "shards")),
    "grade": Stage("grade a benchmark's images", BENCHMARK),
    "understand": Stage("a benchmark of understanding, through lmms-eval", BENCHMARK),
    "report": Stage("tables, figures and the answer", ("seeds",)),
}
LAUNCHED = ("reference", "train")
"""Stages that may run on several processes and nodes."""
TRACKED = ("base", "train", "evaluate", "grade", "understand", "report")
"""Stages after which MLflow gets what is new in the results."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a user's error is one paragraph on stderr and the exit status of the error."""
    arguments = _parser().parse_args(argv)
    threads = getattr(arguments, "threads", forks.THREADS)
    _quiet_libraries(arguments.command, threads=threads)
    if arguments.command in STAGES and threads == forks.THREADS and os.environ.get(forks.SOCKET):
        status = forks.run_forked(sys.argv[1:] if argv is None else argv)
        if status is not None:
            return status
    try:
        arguments.run(arguments)
    except HermesflowError as error:
        if _first_process() or not isinstance(error, Interrupted):
            print(f"hermesflow {arguments.command}: {error}", file=sys.stderr, flush=True)
        return error.status
    except Exception as error:
        if not is_disk_full(error):
            raise
        print(f"hermesflow {arguments.command}: {_DISK_FULL.format(error=error)}", file=sys.stderr)
        return 1
    return 0


_DISK_FULL = (
    "no space left on the disk of the results ({error}). Nothing half-written is left. Free some space, then give the "
    "same command again: what is finished is not done again, and training goes on from its last state."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hermesflow", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in STAGES:
        _stage_command(commands, name, _run_stage)
    launch = commands.add_parser("launch", help="run a stage on the processes and nodes that `runtime` asks for")
    stages = launch.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name in LAUNCHED:
        _stage_command(stages, name, _launch)
    server = commands.add_parser("forks", help="fork the steps of a run from one process (workflow/run starts it)")
    server.add_argument("socket", type=Path)
    server.set_defaults(run=_serve)
    add_commands(commands)
    return parser


def _stage_command(commands: Any, name: str, run: Any) -> None:
    command = new_command(commands, name, STAGES[name].help, run)
    command.add_argument("--threads", type=positive, default=1, help="CPU threads of a process (default 1)")
    for option in STAGES[name].takes:
        add_option(command, option)


def _serve(arguments: argparse.Namespace) -> None:
    stages = (f"hermesflow.stages.{name}" for name in STAGES)
    tracking = ("hermesflow.tracking.runs", "mlflow.store.tracking.sqlalchemy_store")
    sys.exit(forks.serve(arguments.socket, (*stages, *tracking), main))


def _run_stage(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    with _nothing_collected():
        from hermesflow.config.experiment import BASE
        from hermesflow.config.load import load_config
        from hermesflow.core.errors import ConfigError
        from hermesflow.core.files import Layout
        from hermesflow.core.processor import use_matrix_kernel

    config = load_config(arguments.config)
    use_matrix_kernel(config.runtime.matrix_kernel)
    options = {name: getattr(arguments, name) for name in STAGES[arguments.command].takes}
    checkpoint = options.get("checkpoint", BASE)
    if checkpoint != BASE and checkpoint not in config.checkpoints:
        raise ConfigError(
            f"{arguments.config}: no checkpoint `{checkpoint}`; --checkpoint is one of {[BASE, *config.checkpoints]}."
        )
    layout = Layout(arguments.results / config.name)
    step = "-".join([arguments.command, *(f"{name}{value}" for name, value in options.items())])
    with _alone(layout.root / ".locks" / f"{step}.lock"):
        with _nothing_collected():
            stage = importlib.import_module(f"hermesflow.stages.{arguments.command}")
        stage.run(config, layout, **options)
        if arguments.command in TRACKED and _first_process():
            from hermesflow.tracking.runs import log_results

            log_results(layout, **{name: options[name] for name in ("seed", "checkpoint") if name in options})
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU time, {usage.ru_maxrss / 2**20:.2f} GiB at most"
    print(f"{step}: {time.perf_counter() - start:.1f} s, {cost}", file=sys.stderr)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Import what is never garbage: the collector, which looks through all of it again and again, takes 1 s of 5."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let only one job make a step: a killed run can leave a job behind that still writes the same files.

    The first process of a job waits for all of them.
    """
    if not _first_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that makes the same step ({path})", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _launch(arguments: argparse.Namespace) -> None:
    from hermesflow.config.load import load_config
    from hermesflow.training.launch import launch

    names = ("config", "results", "threads", *STAGES[arguments.stage].takes)
    options = [f"--{name}={value}" for name in names if (value := getattr(arguments, name)) is not None]
    launch(load_config(arguments.config).runtime, [arguments.stage, *options])


def _quiet_libraries(command: str, *, threads: int) -> None:
    """Set what libraries read from the environment when they are imported: their threads, and no calls home."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Threads that wait spin for some 50 us alone: by default two of them take ten times as long beside a third.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else weights of a pull request are taken unasked
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if command != "fetch":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers asks for this one too
