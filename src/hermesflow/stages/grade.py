"""Stage `grade`: one benchmark's verdict on the images a checkpoint generated for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hermesflow.config.experiment import Config, as_plain
from hermesflow.core.files import Layout, sha256, write_json, write_manifest, write_table
from hermesflow.core.images import read_cut
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.evaluation.benchmark import ImageBenchmark
from hermesflow.evaluation.evaluated import UNITS
from hermesflow.evaluation.graders.pretrained import digest_of, name_of
from hermesflow.evaluation.grading import Job, read_generated
from hermesflow.evaluation.kept import parts_folder, remove_parts
from hermesflow.evaluation.registry import image_benchmark, read_prompts


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str) -> None:
    """Write units, values, facts, rows and manifest of `benchmarks/{benchmark}` of one checkpoint.

    Raises:
        ConfigError: the config has no such benchmark, or a scorer cannot be read.
        DataError: the benchmark's file is missing or is not the benchmark's.
        FetchError: a scorer cannot be had.
        ArtifactError: the images are missing, or of other prompts.
        JudgeError: the judge does not answer.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    if config.runtime.device == "cpu":  # on a GPU torch refuses what has no such version: cuBLAS, cumsum
        deterministic()
    one, prompts = image_benchmark(benchmark), read_prompts(config.benchmarks, layout, benchmark)
    folder = layout.benchmark(seed, checkpoint, benchmark)
    images = read_generated(
        layout, prompts, seed=seed, checkpoint=checkpoint, device=torch.device(config.runtime.device)
    )
    what = f"grade {benchmark} of {checkpoint}, seed {seed}"
    progress = Progress(len(prompts.ids) * prompts.images, what, "image")
    model, settings = layout.checkpoint(seed, checkpoint) / "model", one.settings(config.benchmarks)

    def verdicts_folder() -> Path:
        origin = origin_of(one, settings, [folder / "images.npy", layout.tokenizer / "model.safetensors"])
        return parts_folder(folder, origin, Path(str(sys.modules[one.grade.__module__].__file__)))

    graded = one.grade(Job(config, settings, layout, model, prompts, images, progress, verdicts_folder))
    scorers = {key.partition(".")[0]: name_of(source) for key, source in one.model_sources(settings).items()}
    facts = {"protocol": graded.protocol, "items": len(prompts.ids), "images": prompts.images, **graded.notes}
    if one.models and (reason := getattr(config.benchmarks, "untried", None)):
        facts["models not tried on known pictures"] = reason
    if cut := read_cut(folder / "images.npy"):
        facts["prompts that the model cut"] = len(cut)
    write_table(folder / "rows.parquet", graded.rows)
    write_table(folder / UNITS, graded.units, numbers=("numerator", "denominator"))
    write_json(folder / "values.json", {metric: asdict(whole) for metric, whole in graded.values.items()})
    write_json(folder / "facts.json", {**facts, "scorers": {**scorers, **graded.scorers}})
    inputs = [folder / "images.npy", model / "model.safetensors", layout.tokenizer / "model.safetensors"]
    inputs += [layout.data(one.split)] if one.split else []
    inputs += [Path(getattr(settings, key)) for key in (*one.prompt_files, *one.grading_files)]
    write_manifest(folder, config={benchmark: as_plain(settings)}, inputs=inputs, seed=seed)
    remove_parts(folder)


def origin_of(benchmark: ImageBenchmark, settings: Any, inputs: Sequence[Path]) -> list[object]:
    """What decides the verdicts on generated images: settings, prompts, images, and the released models that grade."""
    files = [*inputs, *(Path(getattr(settings, key)) for key in benchmark.prompt_files)]
    models = [digest_of(source) for source in benchmark.model_sources(settings).values()]
    return [as_plain(settings), *map(sha256, files), *models]
