"""Stage `understand`: one column of Table 1 through lmms-eval, which runs and is read in its own environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hermesflow.config.benchmarks import Understanding
from hermesflow.config.experiment import Config, as_plain
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import Layout, write_manifest
from hermesflow.evaluation.lmms import LOCAL
from hermesflow.evaluation.lmms.running import TASKS, Evaluation, evaluate
from hermesflow.evaluation.registry import lmms_benchmark


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str) -> None:
    """Write `benchmarks/{benchmark}` of one checkpoint: lmms-eval's files in `lmms`, units, rows, values and facts.

    Raises:
        ConfigError: the config has no such column, or there is no such environment or no Java.
        DataError: a file that the benchmark's tasks need is missing.
        ArtifactError: lmms-eval ended with an error, or its files are not what they should be.
    """
    section = config.benchmarks.understanding if config.benchmarks else None
    if section is None or benchmark not in section.columns:
        raise ConfigError(f"--benchmark {benchmark}: is not in benchmarks.understanding.columns of the config.")
    folder, model = layout.benchmark(seed, checkpoint, benchmark), layout.checkpoint(seed, checkpoint) / "model"
    evaluation = Evaluation(
        model=model,
        tokenizer=layout.tokenizer,
        tasks=tasks_of(section, benchmark),
        device=config.runtime.device,
        precision=config.runtime.inference_precision,
        batch_size=section.batch_size,
        include=Path(section.tasks) if section.tasks else TASKS,
    )
    python, environment = Path(section.python), environment_of(section, benchmark)
    evaluate(evaluation, folder / "lmms", python=python, environment=environment)
    command = [str(python), "-m", "hermesflow.evaluation.lmms.summary", str(folder / "lmms"), str(folder)]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
    if process.returncode:
        raise ArtifactError(
            f"{folder / 'lmms'}: lmms-eval's results cannot be summarised: {process.stderr.strip()[-2000:]}"
        )
    inputs = [model / "model.safetensors", layout.tokenizer / "model.safetensors"]
    settings = {"understanding": as_plain(section), "tasks": list(evaluation.tasks)}
    write_manifest(folder, config=settings, inputs=inputs, seed=seed)


def tasks_of(section: Understanding, benchmark: str) -> list[str]:
    """lmms-eval's tasks of a column: local copies where the config names a folder of them."""
    return [f"{task}{LOCAL}" if section.tasks else task for task in lmms_benchmark(benchmark).tasks_wanted(section)]


def environment_of(section: Understanding, benchmark: str) -> dict[str, str]:
    """Variables of lmms-eval's processes.

    Raises:
        DataError: a file that the benchmark's tasks need is missing.
    """
    environment = dict(os.environ)
    if section.cache:
        cache = Path(section.cache).absolute()
        if not (cache / "token").is_file():  # `hf auth login` left it in the usual place
            usual = Path(environment.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
            home = Path(environment.get("HF_HOME", usual)).expanduser().absolute()
            environment.setdefault("HF_TOKEN_PATH", str(home / "token"))
        environment["HF_HOME"] = str(cache)
    return {**environment, **lmms_benchmark(benchmark).environment(section)}
