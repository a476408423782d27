"""The command line: one subcommand per rule, and a few for developers. The only place that reads argv.

    python -m hermesflow train --config config/micro.yaml --seed 0 --checkpoint pair-1

Libraries are imported by the stage that needs them, so that a short step starts fast.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.errors import HermesflowError, Interrupted, is_disk_full


@dataclass(frozen=True)
class Stage:
    """One subcommand that makes artifacts."""

    help: str
    takes: tuple[str, ...] = ()
    """Which of seed, checkpoint, benchmark, shard, shards, seeds it is given."""


_SHARD = ("seed", "checkpoint", "shard", "shards")
_CHECKPOINT = ("seed", "checkpoint")
_BENCHMARK = (*_CHECKPOINT, "benchmark")
STAGES: dict[str, Stage] = {
    "data": Stage("homologous pairs of every split"),
    "tokenizer": Stage("train the image tokenizer, or take released weights"),
    "encode": Stage("image tokens of the real images"),
    "judge": Stage("accuracy of the independent judge"),
    "clip": Stage("train the fixed image-text extractor"),
    "base": Stage("pre-train the base model, or take released weights", ("seed",)),
    "sample": Stage("caption and image candidates, one shard", _SHARD),
    "gather_candidates": Stage("join the shards of candidates", (*_CHECKPOINT, "shards")),
    "score": Stage("preference scores of candidates, one shard", _SHARD),
    "gather_scores": Stage("join the shards of scores", (*_CHECKPOINT, "shards")),
    "agreement": Stage("rank agreement of the scores with the judge", ("seed",)),
    "prefer": Stage("candidates to chosen and rejected", _CHECKPOINT),
    "reference": Stage("log-probs under the reference model", _CHECKPOINT),
    "train": Stage("Pair-DPO", _CHECKPOINT),
    "evaluate": Stage("benchmarks of one checkpoint", _CHECKPOINT),
    "draw": Stage("images of one benchmark's prompts as tokens, one shard", (*_BENCHMARK, "shard", "shards")),
    "gather_drawn": Stage("join the shards of a benchmark's images", (*_BENCHMARK, "shards")),
    "grade": Stage("grade a benchmark's images", _BENCHMARK),
    "understand": Stage("a benchmark of understanding, through lmms-eval", _BENCHMARK),
    "report": Stage("tables, figures and the answer", ("seeds",)),
}
LAUNCHED = ("reference", "train")
"""Stages that may run on several processes and nodes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a user's error is one paragraph on stderr and the exit status of the error."""
    arguments = _parser().parse_args(argv)
    _quiet_libraries(arguments)
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
    _plan_command(commands)
    track = _command(commands, "track", "create the MLflow database and the runs of a config", _track)
    _add_option(track, "seeds", required=False)
    sync = commands.add_parser("sync", help="send MLflow what it could not take while it was away")
    sync.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    sync.set_defaults(run=_sync)
    fetch = _command(commands, "fetch", "fetch what a config needs from the hub and check it", _fetch)
    fetch.add_argument("--pin", action="store_true", help="print revisions and checksums to put into the config")
    reference = commands.add_parser("fid-reference", help="statistics of COCO's real images for the FID")
    reference.add_argument("--config", type=Path, default=Path("config/showo.yaml"), help="default config/showo.yaml")
    reference.add_argument("--images", type=Path, required=True, help="folder of COCO's val2014")
    reference.add_argument("--threads", type=_positive, default=1, help="CPU threads (default 1)")
    reference.set_defaults(run=_fid_reference)
    export = _command(commands, "export-images", "images drawn for GenEval or GenEval 2 as files", _export_images)
    for option in _BENCHMARK:
        _add_option(export, option)
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    parity = commands.add_parser("geneval-parity", help="hold our GenEval against a results file of the original")
    parity.add_argument("--config", type=Path, default=Path("config/showo.yaml"), help="default config/showo.yaml")
    parity.add_argument("--theirs", type=Path, required=True, help="results.jsonl of evaluate_images.py")
    parity.add_argument("--images", type=Path, help="the images it graded; without them only the rules are compared")
    parity.add_argument("--threads", type=_positive, default=1, help="CPU threads (default 1)")
    parity.set_defaults(run=_geneval_parity)
    publish = _command(commands, "publish", "copy tables, figures and a manifest into docs/results", _publish)
    _add_option(publish, "seeds", required=False)
    publish.add_argument("--to", type=Path, default=Path("docs/results"), help="default docs/results")
    publish.add_argument("--readme", type=Path, help="also fill the results section of this README")
    dag = commands.add_parser("dag", help="put Snakemake's rule graph (mermaid, on stdin) into the README")
    dag.add_argument("--readme", type=Path, default=Path("README.md"), help="default README.md")
    dag.set_defaults(run=_dag)
    dvc = _command(commands, "dvc", "write dvc.yaml from the rules", _dvc)
    dvc.add_argument("--output", type=Path, default=Path("dvc.yaml"), help="default dvc.yaml")
    schema = commands.add_parser("schema", help="print the JSON schema of a config file, or its table of keys")
    schema.add_argument("--markdown", action="store_true", help="the table of config/README.md")
    schema.set_defaults(run=_schema)
    return parser


def _plan_command(commands: Any) -> None:
    plan = commands.add_parser(
        "plan", help="what a config costs: FLOPs, GPU-hours, memory, disk and files of each rule"
    )
    plan.add_argument("--config", type=Path, default=Path("config/micro.yaml"), help="default config/micro.yaml")
    plan.add_argument("--json", action="store_true", help="every rule and checkpoint as JSON, in plain units")
    plan.add_argument("--machines", nargs="+", metavar="NxGPU", help="default 1xh100 8xa100")
    plan.add_argument("--utilisation", type=float, help="share of peak FLOP/s that is reached, default 0.4")
    plan.add_argument("--questions", type=_positive, help="questions a pair has, default 10")
    plan.add_argument("--tflops", type=float, nargs=2, metavar=("BF16", "FLOAT32"), help="peak of a GPU, dense")
    plan.add_argument("--memory", type=float, help="GB of a GPU")
    plan.add_argument("--bandwidth", type=float, help="TB/s of a GPU's memory")
    plan.set_defaults(run=_plan)


def _stage_command(commands: Any, name: str, run: Any) -> None:
    command = _command(commands, name, STAGES[name].help, run)
    command.add_argument("--threads", type=_positive, default=1, help="CPU threads of a process (default 1)")
    for option in STAGES[name].takes:
        _add_option(command, option)


def _command(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--config", type=Path, default=Path("config/micro.yaml"), help="default config/micro.yaml")
    command.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    command.set_defaults(run=run)
    return command


def _add_option(command: argparse.ArgumentParser, option: str, *, required: bool = True) -> None:
    if option == "seeds":
        command.add_argument("--seeds", type=_count, nargs="+", required=required, help="run seeds")
    elif option == "checkpoint":
        command.add_argument("--checkpoint", required=required, help="a name in `checkpoints`, or base")
    elif option == "benchmark":
        command.add_argument("--benchmark", required=required, help="a name in `benchmarks`, or a column of it")
    else:
        kind = _positive if option == "shards" else _count
        command.add_argument(f"--{option}", type=kind, required=required)


def _run_stage(arguments: argparse.Namespace) -> None:
    with _nothing_collected():
        from hermesflow.artifacts import Layout
        from hermesflow.config import BASE, load_config
        from hermesflow.errors import ConfigError

    config = load_config(arguments.config)
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
    from hermesflow.config import load_config
    from hermesflow.launching import launch

    names = ("config", "results", "threads", *STAGES[arguments.stage].takes)
    options = [f"--{name}={getattr(arguments, name)}" for name in names]
    launch(load_config(arguments.config).runtime, [arguments.stage, *options])


def _quiet_libraries(arguments: argparse.Namespace) -> None:
    # Before torch is imported: it reads its number of threads once.
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(getattr(arguments, "threads", 1))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else weights of a pull request are taken unasked
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if arguments.command != "fetch":
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers asks for this one too


def _plan(arguments: argparse.Namespace) -> None:
    from hermesflow.budget import table
    from hermesflow.budget.lengths import QUESTIONS, Lengths
    from hermesflow.budget.machines import MACHINES, UTILISATION
    from hermesflow.config import load_config
    from hermesflow.errors import ConfigError

    utilisation = arguments.utilisation or UTILISATION
    if not 0 < utilisation <= 1:
        raise ConfigError(f"--utilisation {utilisation}: a share, above 0 and at most 1.")
    machines = table.machines_of(
        arguments.machines or MACHINES,
        tflops=arguments.tflops,
        memory=arguments.memory,
        bandwidth=arguments.bandwidth,
    )
    config = load_config(arguments.config)
    lengths = Lengths.of(config, questions=arguments.questions or QUESTIONS)
    write = table.as_json if arguments.json else table.as_text
    print(write(config, machines, lengths=lengths, utilisation=utilisation), end="")


def _track(arguments: argparse.Namespace) -> None:
    from hermesflow import tracking
    from hermesflow.artifacts import Layout
    from hermesflow.config import load_config

    config = load_config(arguments.config)
    tracking.create_runs(config, Layout(arguments.results / config.name), arguments.seeds or config.seeds)


def _sync(arguments: argparse.Namespace) -> None:
    from hermesflow import tracking

    for line in tracking.sync(arguments.results):
        print(line, flush=True)


def _fetch(arguments: argparse.Namespace) -> None:
    from hermesflow.config import load_config
    from hermesflow.fetching import fetch_all, pinned_yaml

    config = load_config(arguments.config)
    if arguments.pin:
        print(pinned_yaml(config), end="")
        return
    folders = fetch_all(config)
    for key, folder in folders.items():
        print(f"{key}: {folder}")
    if not folders:
        print(f"{arguments.config} names nothing on the hub: nothing to fetch")


def _fid_reference(arguments: argparse.Namespace) -> None:
    from hermesflow.benchmarks.fid_reference import make_reference
    from hermesflow.config import load_config
    from hermesflow.errors import ConfigError

    config = load_config(arguments.config)
    if config.benchmarks is None or config.benchmarks.coco is None:
        raise ConfigError(
            f"{arguments.config}: has no section `benchmarks.coco`, which names the captions, the Inception weights "
            "and the file to write. Add it (docs/benchmarks.md)."
        )
    make_reference(config.benchmarks.coco, arguments.images, device=config.runtime.device)


def _export_images(arguments: argparse.Namespace) -> None:
    from hermesflow.artifacts import Layout
    from hermesflow.benchmarks.exporting import export_images
    from hermesflow.config import load_config

    config = load_config(arguments.config)
    options = {name: getattr(arguments, name) for name in _BENCHMARK}
    export_images(config, Layout(arguments.results / config.name), **options, folder=arguments.to)


def _geneval_parity(arguments: argparse.Namespace) -> None:
    from hermesflow.benchmarks.geneval_parity import compare
    from hermesflow.config import load_config
    from hermesflow.errors import ConfigError

    config = load_config(arguments.config)
    if config.benchmarks is None or config.benchmarks.geneval is None:
        raise ConfigError(
            f"{arguments.config}: has no section `benchmarks.geneval`, which names detector and CLIP. Add it "
            "(docs/benchmarks.md)."
        )
    device = config.runtime.device
    print(compare(config.benchmarks.geneval, arguments.theirs, arguments.images, device=device))


def _publish(arguments: argparse.Namespace) -> None:
    from hermesflow.artifacts import Layout
    from hermesflow.config import load_config
    from hermesflow.publishing import fill_readme, publish

    config = load_config(arguments.config)
    layout, target = Layout(arguments.results / config.name), arguments.to / config.name
    publish(config, layout, target, seeds=arguments.seeds or config.seeds)
    if arguments.readme:
        fill_readme(arguments.readme, target)


def _dag(arguments: argparse.Namespace) -> None:
    from hermesflow.publishing import fill_dag

    fill_dag(arguments.readme, sys.stdin.read())


def _dvc(arguments: argparse.Namespace) -> None:
    from hermesflow.artifacts import atomic
    from hermesflow.pipeline import dvc_yaml

    text = dvc_yaml(arguments.config)
    with atomic(arguments.output) as temporary:
        temporary.write_text(text)


def _schema(arguments: argparse.Namespace) -> None:
    from hermesflow.config_reference import json_schema, markdown

    print(markdown() if arguments.markdown else json_schema(), end="")


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value
