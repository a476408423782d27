"""A benchmark's drawn images as PNG files, laid out as the original's own scripts want them.

So that the original can grade what a checkpoint drew, and the two verdicts can be compared (docs/geneval.md,
docs/geneval2.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hermesflow.config.experiment import Config
from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import Layout, write_json
from hermesflow.core.progress import Progress
from hermesflow.evaluation.benchmarks.drawing import Prompts, read_prompts
from hermesflow.evaluation.benchmarks.grading import read_drawn

PATHS = "image_paths.json"
"""What GenEval 2's evaluation.py is given: the file of each prompt's first image."""


def export_images(config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, folder: Path) -> None:
    """Write the images that a checkpoint drew for GenEval or GenEval 2.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: who drew.
        benchmark: `geneval`: `00012/metadata.jsonl` and `00012/samples/0003.png` (image 3 of prompt 12, from 0);
            `geneval2`: `0012/0000.png` and PATHS.
        folder: where to; new or empty.

    Raises:
        ConfigError: the config has no such benchmark, or its original grades no files.
        DataError: its prompts cannot be read, or the folder is not empty.
        ArtifactError: the images are missing, or of other prompts.
    """
    if benchmark not in ("geneval", "geneval2"):
        raise ConfigError(f"--benchmark {benchmark}: images are exported for geneval and geneval2. Name one of them.")
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    drawn = read_drawn(layout, prompts, seed=seed, checkpoint=checkpoint, device=torch.device(config.runtime.device))
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty, so images of another run could stay among these. Name a new folder.")
    progress = Progress(len(prompts.ids) * prompts.images, f"export {benchmark} of {checkpoint}, seed {seed}", "image")
    places = [folder / id_ / "samples" if benchmark == "geneval" else folder / id_ for id_ in prompts.ids]
    for number, place in enumerate(places):
        place.mkdir(parents=True)
        for k, image in enumerate(drawn.pictures(number)):
            image.save(place / _name(k))
        progress.advance(prompts.images)
    if benchmark == "geneval":
        assert config.benchmarks is not None and config.benchmarks.geneval is not None
        _write_metadata(Path(config.benchmarks.geneval.prompts), places)
    else:
        _write_paths(prompts, places, folder / PATHS)


def _name(image: int) -> str:
    return f"{image:04d}.png"


def _write_metadata(path: Path, places: Sequence[Path]) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line, place in zip(lines, places, strict=True):
        (place.parent / "metadata.jsonl").write_text(f"{line}\n", encoding="utf-8")


def _write_paths(prompts: Prompts, places: Sequence[Path], path: Path) -> None:
    write_json(path, {text: str(place.resolve() / _name(0)) for text, place in zip(prompts.texts, places, strict=True)})
