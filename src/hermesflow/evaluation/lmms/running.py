"""lmms-eval's own command line on one checkpoint, in the environment it is installed in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.evaluation.benchmark import LmmsBenchmark
from hermesflow.evaluation.lmms import IMAGES, MODEL, PROGRESS
from hermesflow.evaluation.registry import benchmark_of

PYTHON = Path(".venv-lmms/bin/python")
"""Interpreter of the environment that `make lmms` builds."""
TASKS = Path(__file__).parent / "tasks"
"""Tasks that lmms-eval does not ship."""
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

    Lines of progress are printed to stderr as they come; everything is in the log.

    Raises:
        ConfigError: there is no such environment, or no Java where a task's scorer needs it.
        ArtifactError: lmms-eval ended with an error or left no results; the log stays beside `output`.
    """
    if not python.exists():
        raise ConfigError(f"{python}: no such interpreter. Run `make lmms` first: lmms-eval has its own environment.")
    for one in {one.name: one for task in evaluation.tasks if (one := benchmark_of(task)) and one.java}.values():
        _check_java(one, environment)
    for leftover in output.parent.glob(f".{output.name}.*"):  # of a run that was killed
        shutil.rmtree(leftover)
    work = output.with_name(f".{output.name}.{os.getpid()}")
    work.mkdir(parents=True)
    status = _logged(command(evaluation, work, python=python), work / _LOG, environment)
    if status or len(list(work.glob("*/*_results.json"))) != 1:
        log = output.with_name(f"{output.name}.log")
        os.replace(work / _LOG, log)
        shutil.rmtree(work)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])
        raise ArtifactError(f"lmms-eval ended with status {status} and no results; {log} says:\n{tail}")
    shutil.rmtree(output, ignore_errors=True)
    os.replace(work, output)


def _logged(command: Sequence[str], log: Path, environment: Mapping[str, str] | None) -> int:
    """Run a command with all it prints in a file, its lines of progress on stderr too; its exit status."""
    with (
        log.open("wb", buffering=0) as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                if line.startswith(PROGRESS.encode()):
                    print(line.decode(errors="replace").rstrip(), file=sys.stderr, flush=True)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _check_java(benchmark: LmmsBenchmark, environment: Mapping[str, str] | None) -> None:
    """Ask Java for its version: lmms-eval would look for it after the last caption.

    Raises:
        ConfigError: there is none, or it does not start.
    """
    path = (os.environ if environment is None else environment).get("PATH")
    java = shutil.which("java", path=path)
    run = java and subprocess.run([java, "-version"], capture_output=True, text=True, env=environment)
    if not run or run.returncode:
        fault = f"{java} does not start: {run.stderr.strip()[-500:]}" if run else f"there is no `java` in PATH={path}"
        raise ConfigError(
            f"{benchmark.java} runs Java, but {fault}. Install a Java runtime (Debian and Ubuntu: apt-get install "
            f"default-jre-headless), or leave {benchmark.name} out of benchmarks.understanding.columns."
        )
