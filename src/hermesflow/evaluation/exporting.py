"""A benchmark's generated images as PNG files, laid out as the original's own scripts want them.

So that the original can grade what a checkpoint generated, and the two verdicts can be compared.
"""

from __future__ import annotations

from pathlib import Path

import torch

from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.experiment import Config
from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import Layout
from hermesflow.core.progress import Progress
from hermesflow.evaluation.benchmark import ImageBenchmark
from hermesflow.evaluation.grading import read_generated
from hermesflow.evaluation.registry import read_prompts


def export_images(config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, folder: Path) -> None:
    """Write the images that a checkpoint generated for one benchmark.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: who generated them.
        benchmark: whose images; its `export` says where they lie.
        folder: where to; new or empty. Image 3 of prompt 12, from 0, is `{id of prompt 12}/{export.folder}/0003.png`.

    Raises:
        ConfigError: the config has no such benchmark, or its original grades no files.
        DataError: its prompts cannot be read, or the folder is not empty.
        ArtifactError: the images are missing, or of other prompts.
    """
    known = {one.name: one.export for one in BENCHMARKS.values() if isinstance(one, ImageBenchmark) and one.export}
    if (export := known.get(benchmark)) is None:
        raise ConfigError(f"--benchmark {benchmark}: images are exported for {' and '.join(known)}. Name one of them.")
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    images = read_generated(
        layout, prompts, seed=seed, checkpoint=checkpoint, device=torch.device(config.runtime.device)
    )
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty, so images of another run could stay among these. Name a new folder.")
    progress = Progress(len(prompts.ids) * prompts.images, f"export {benchmark} of {checkpoint}, seed {seed}", "image")
    files = [[folder / id_ / export.folder / f"{k:04d}.png" for k in range(prompts.images)] for id_ in prompts.ids]
    for number, paths in enumerate(files):
        paths[0].parent.mkdir(parents=True)
        for path, image in zip(paths, images.pictures(number), strict=True):
            image.save(path)
        progress.advance(prompts.images)
    export.write_index(getattr(config.benchmarks, benchmark), prompts, files, folder)
