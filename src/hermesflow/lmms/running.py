"""lmms-eval's own command line on one checkpoint, in the environment it is installed in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermesflow.errors import ArtifactError, ConfigError
from hermesflow.lmms import MODEL

PYTHON = Path(".venv-lmms/bin/python")
"""Interpreter of the environment that `make lmms` builds."""
TASKS = Path(__file__).parent / "tasks"
"""Tasks that lmms-eval does not ship."""
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "pope": ("pope_random", "pope_pop", "pope_adv"),
    "mme": ("mme",),
    "flickr30k": ("flickr30k_test", "flickr30k_karpathy"),
    "vqav2": ("vqav2_val", "vqav2_test"),
    "gqa": ("gqa",),
    "mmmu": ("mmmu_val",),
}
"""Tasks of each column of the paper's Table 1."""
KARPATHY_TASK = "flickr30k_karpathy"
IMAGES = "images.parquet"
_LOG = "lmms_eval.log"
_TAIL = 20  # lines of the log in an error


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated, and how."""

    model: Path
    """Folder of the checkpoint."""
    tokenizer: Path
    """Folder of the image tokenizer."""
    tasks: Sequence[str]
    device: str = "cpu"
    precision: str = "no"
    batch_size: int = 1
    """Pictures answered about together."""
    include: Path = TASKS
    """Folder with tasks beside those that lmms-eval ships."""


def command(evaluation: Evaluation, output: Path, *, python: Path = PYTHON) -> list[str]:
    """The command line that evaluates a checkpoint and leaves lmms-eval's files in `output`.

    Raises:
        ConfigError: a path holds a comma or an equals sign, which lmms-eval's `--model_args` cannot carry.
    """
    arguments = {
        "pretrained": evaluation.model,
        "tokenizer": evaluation.tokenizer,
        "images": output / IMAGES,
        "precision": evaluation.precision,
    }
    for name, value in arguments.items():
        if set(str(value)) & set(",="):
            raise ConfigError(f"{name} {value}: lmms-eval takes no comma and no `=` in a path. Rename the folder.")
    options = {
        "--model": MODEL,
        "--model_args": ",".join(f"{name}={value}" for name, value in arguments.items()),
        "--tasks": ",".join(evaluation.tasks),
        "--batch_size": str(evaluation.batch_size),
        "--device": evaluation.device,
        "--output_path": str(output),
        "--include_path": str(evaluation.include),
        "--process_docs_parallel": "1",  # MMMU guesses what it cannot read: in threads, not twice alike
        "--verbosity": "DEBUG",  # else lmms-eval swallows errors and ends with status 0
    }
    return [str(python), "-m", "lmms_eval", *(part for pair in options.items() for part in pair), "--log_samples"]


def evaluate(
    evaluation: Evaluation, output: Path, *, python: Path = PYTHON, environment: Mapping[str, str] | None = None
) -> None:
    """Run lmms-eval; `output` appears, or is replaced, when all of it is there.

    Args:
        evaluation: what is evaluated.
        output: folder of its results (`{date}_results.json` and `{date}_samples_{task}.jsonl` in a folder that is
            named after the checkpoint), `images.parquet`, `submissions` and the log.
        python: interpreter of the environment with lmms-eval.
        environment: variables of its process; None is this one's.

    Raises:
        ConfigError: there is no such environment.
        ArtifactError: lmms-eval ended with an error or left no results; the log stays beside `output`.
    """
    if not python.exists():
        raise ConfigError(f"{python}: no such interpreter. Run `make lmms` first: lmms-eval has its own environment.")
    work = output.with_name(f".{output.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / _LOG
    with log.open("w") as file:
        done = subprocess.run(
            command(evaluation, work, python=python), stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    if done.returncode or len(list(work.glob("*/*_results.json"))) != 1:
        kept = output.with_name(f"{output.name}.log")
        os.replace(log, kept)
        shutil.rmtree(work)
        tail = "\n".join(kept.read_text(errors="replace").splitlines()[-_TAIL:])
        raise ArtifactError(f"lmms-eval ended with status {done.returncode} and no results; {kept} says:\n{tail}")
    shutil.rmtree(output, ignore_errors=True)
    os.replace(work, output)
