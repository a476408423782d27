"""Grading of a benchmark's generated images: what a grader is given, what it leaves, and its loop over prompts.

Images are decoded a few at a time: 30,000 of 512 pixels would take 24 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, write_table
from hermesflow.core.images import as_tensor, read_images
from hermesflow.core.progress import Progress
from hermesflow.evaluation.evaluated import Whole
from hermesflow.evaluation.prompts import Prompts

Grader = TypeVar("Grader")
_PROMPTS_PER_PART = 8  # prompts whose verdicts are kept together
_DRAW = "Delete it and run snakemake again to draw anew."


@dataclass(frozen=True)
class GeneratedImages:
    """Images of a benchmark as they are stored, and how to see them."""

    images: np.ndarray
    """(N, n, *generated): n images of each of N prompts, in the order of the benchmark."""
    decode: Callable[[Tensor], np.ndarray]
    """(M, *generated) to (M, H, W, 3) uint8 images."""

    def pixels(self, start: int, stop: int) -> np.ndarray:
        """All images of prompts `start` to `stop` - 1, (M, H, W, 3) uint8."""
        return self.decode(as_tensor(self.images[start:stop]).flatten(0, 1))

    def pictures(self, prompt: int) -> list[Image.Image]:
        """The n images of one prompt."""
        return [Image.fromarray(pixels) for pixels in self.pixels(prompt, prompt + 1)]


@dataclass(frozen=True)
class Job:
    """Grading of the images that one checkpoint generated for one benchmark."""

    config: Config
    settings: Any
    """The benchmark's section."""
    layout: Layout
    model: Path
    """Folder of the checkpoint's weights."""
    prompts: Prompts
    images: GeneratedImages
    progress: Progress
    """Of images."""
    verdicts_folder: Callable[[], Path]
    """Folder with verdicts of a run that was killed; naming it takes reading all models, so it is made where used."""

    @property
    def device(self) -> str:
        """Where graders run."""
        return self.config.runtime.device

    def tried(self, grader: Grader, canary: Callable[[Grader], None]) -> Grader:
        """A grader that has given the known verdicts on known pictures, unless `benchmarks.untried` says why not.

        Args:
            grader: a model that grades.
            canary: of `graders.canaries`.

        Raises:
            ConfigError: it has not.
        """
        if self.config.benchmarks is None or self.config.benchmarks.untried is None:
            canary(grader)
        return grader


@dataclass(frozen=True)
class Graded:
    """What a benchmark leaves of one checkpoint."""

    rows: pd.DataFrame
    units: pd.DataFrame
    """UNIT_COLUMNS."""
    protocol: str
    """What was done, in words for a table's notes."""
    values: Mapping[str, Whole] = field(default_factory=dict)
    """Figures of all units together."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else the tables say, as plain JSON data."""
    scorers: Mapping[str, str] = field(default_factory=dict)
    """What graded, by role, beside the models that the benchmark's section names."""


def read_generated(
    layout: Layout, prompts: Prompts, *, seed: int, checkpoint: str, device: torch.device
) -> GeneratedImages:
    """A benchmark's images and what decodes them.

    Raises:
        ArtifactError: missing, truncated, or of other prompts than the benchmark's file has now.
    """
    from hermesflow.models.backbone import load_codec

    path = layout.benchmark(seed, checkpoint, prompts.benchmark) / "images.npy"
    ids, images = read_images(path)
    if ids != list(prompts.ids) or images.shape[1] != prompts.images:
        raise ArtifactError(
            f"{path}: holds {images.shape[1]} images of {len(ids)} prompts, and not {prompts.images} of each of the "
            f"{len(prompts.ids)} prompts that {prompts.benchmark} has. {_DRAW}"
        )
    if read_json(path.with_suffix(".json")).get("prompts") != prompts.digest:
        raise ArtifactError(f"{path}: was drawn from other texts than {prompts.benchmark}'s prompts have now. {_DRAW}")
    return GeneratedImages(images, load_codec(layout.tokenizer, device=device).to_pixels)


def grade_by_prompt(job: Job, grade: Callable[[int, list[Image.Image]], pd.DataFrame]) -> pd.DataFrame:
    """Verdicts on the images of all prompts, made for one prompt at a time.

    Args:
        job: images, progress, and verdicts of a run that was killed.
        grade: rows about the images of one prompt, given its number from 0.
    """

    def make(start: int, stop: int) -> pd.DataFrame:
        tables = []
        for number in range(start, stop):
            tables.append(grade(number, images := job.images.pictures(number)))
            job.progress.advance(len(images))
        return pd.concat(tables, ignore_index=True)

    return grade_in_parts(job, make, together=_PROMPTS_PER_PART)


def grade_in_parts(job: Job, make: Callable[[int, int], pd.DataFrame], *, together: int) -> pd.DataFrame:
    """Verdicts on the images of all prompts; those of earlier runs count as graded.

    Args:
        job: images, progress, and verdicts of a run that was killed.
        make: rows about the images of prompts `start` to `stop` - 1.
        together: prompts whose verdicts are kept together.
    """
    folder, parts, prompts = job.verdicts_folder(), [], len(job.prompts.ids)
    for start in range(0, prompts, together):
        stop = min(start + together, prompts)
        path = folder / f"{start}-{stop}.parquet"
        if path.exists():  # written whole or not at all
            job.progress.advance((stop - start) * job.prompts.images)
        else:
            write_table(path, make(start, stop))
        parts.append(pd.read_parquet(path))
    return pd.concat(parts, ignore_index=True)
