"""Grading of a benchmark's drawn images: rows, units of the bootstrap, and facts for the notes of the tables.

Images are decoded from their tokens a few at a time: 30,000 of 512 pixels would take 24 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json
from hermesflow.core.images import as_tensor, read_images
from hermesflow.evaluation.benchmarks import dpg, fidelity, geneval, geneval2
from hermesflow.evaluation.benchmarks.drawing import Prompts
from hermesflow.evaluation.benchmarks.fidelity import Caption, FeatureExtractor, Gaussian
from hermesflow.evaluation.benchmarks.geneval import Detection, Metadata
from hermesflow.evaluation.benchmarks.kept import Kept
from hermesflow.evaluation.benchmarks.pretrained import PretrainedClip
from hermesflow.evaluation.bootstrap import FIDELITY_POOL, resample_counts
from hermesflow.evaluation.evaluated import Whole
from hermesflow.evaluation.worlds import generation

_TOGETHER = 32  # captions whose images are decoded and scored together
_KEPT_TOGETHER = 8  # prompts whose verdicts are kept together
_DRAW = "Delete it and run snakemake again to draw anew."

Advance = Callable[[int], None]
"""Told how many more images are graded."""


class Detects(Protocol):
    """What finds objects (`geneval_detector.Detector`)."""

    def detect(self, image: Image.Image) -> dict[str, list[Detection]]:
        """Objects by class."""


class NamesColors(Protocol):
    """What tells colours (`geneval_detector.ColorClassifier`)."""

    def colors(self, image: Image.Image, name: str, objects: Sequence[Detection]) -> list[str]:
        """One colour per object."""


@dataclass(frozen=True)
class Drawn:
    """Images of a benchmark as tokens, and how to see them."""

    images: np.ndarray
    """(N, n, *generated): n images of each of N prompts, in the order of the benchmark."""
    decode: Callable[[Tensor], np.ndarray]
    """(M, *generated) to (M, H, W, 3) uint8 images."""

    def of(self, start: int, stop: int) -> np.ndarray:
        """All images of prompts `start` to `stop` - 1, (M, H, W, 3) uint8."""
        return self.decode(as_tensor(self.images[start:stop]).flatten(0, 1))

    def pictures(self, prompt: int) -> list[Image.Image]:
        """The n images of one prompt."""
        return [Image.fromarray(pixels) for pixels in self.of(prompt, prompt + 1)]


@dataclass(frozen=True)
class Graded:
    """What a benchmark leaves of one checkpoint."""

    rows: pd.DataFrame
    units: pd.DataFrame
    """UNIT_COLUMNS."""
    protocol: str
    """What was done, in words for a table's notes."""
    values: dict[str, Whole] = field(default_factory=dict)
    """Figures of all units together."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else the tables say, as plain JSON data."""


def read_drawn(layout: Layout, prompts: Prompts, *, seed: int, checkpoint: str, device: torch.device) -> Drawn:
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
    return Drawn(images, load_codec(layout.tokenizer, device=device).to_pixels)


def grade_geneval(
    prompts: Sequence[Metadata], drawn: Drawn, detector: Detects, classifier: NamesColors, kept: Kept, advance: Advance
) -> Graded:
    """GenEval's verdict on every image."""

    def verdicts(number: int, images: list[Image.Image]) -> pd.DataFrame:
        rows = []
        for k, image in enumerate(images):
            found, colors = detector.detect(image), partial(classifier.colors, image)
            rows.append(geneval.image_row(number, k, prompts[number], found, colors))
        return geneval.images_table(rows)

    table = _by_prompt(kept, drawn, verdicts, advance)
    protocol = (
        f"GenEval, {len(prompts):,} prompts x {drawn.images.shape[1]} images; the original's thresholds and rules"
    )
    return Graded(table, generation.geneval_units(table), protocol)


def grade_dpg(
    prompts: Sequence[dpg.DensePrompt], drawn: Drawn, judge: dpg.VqaJudge, kept: Kept, advance: Advance
) -> Graded:
    """DPG-Bench's questions about every image."""
    table = _by_prompt(kept, drawn, lambda number, images: dpg.grade(prompts[number], images, judge), advance)
    images, whole = drawn.images.shape[1], (dpg.PROMPTS, dpg.IMAGES_PER_PROMPT)
    other = "" if (len(prompts), images) == whole else f" (the whole has {dpg.PROMPTS:,} x {dpg.IMAGES_PER_PROMPT})"
    protocol = f"DPG-Bench, {len(prompts):,} prompts x {images} images{other}; children of a no count 0"
    notes = {"questions": sum(len(prompt.questions) for prompt in prompts), "answers": dpg.answers_of(table)}
    return Graded(table, dpg.dpg_units(table), protocol, notes=notes)


def grade_geneval2(
    prompts: Sequence[geneval2.Prompt], drawn: Drawn, judge: geneval2.AnswerProbability, kept: Kept, advance: Advance
) -> Graded:
    """GenEval 2's questions about every image."""
    table = _by_prompt(
        kept, drawn, lambda number, images: geneval2.grade(number, prompts[number], images, judge), advance
    )
    protocol = (
        f"GenEval 2, {len(prompts):,} prompts x {drawn.images.shape[1]} images; Soft-TIFA: probability that an answer "
        "begins with the right word"
    )
    notes = {"questions": sum(len(prompt.questions) for prompt in prompts), "licence of its data": geneval2.TERMS}
    return Graded(table, geneval2.geneval2_units(table), protocol, notes=notes)


def grade_coco(
    captions: Sequence[Caption],
    drawn: Drawn,
    extractor: FeatureExtractor,
    reference: Gaussian,
    clip: PretrainedClip,
    kept: Kept,
    advance: Advance,
    *,
    resamples: int,
    resampled: Advance = lambda _: None,
    device: str = "cpu",
) -> Graded:
    """Frechet distance of all images, with a bootstrap over captions, and CLIP score of each."""

    def seen(start: int, stop: int) -> pd.DataFrame:
        images, some = list(drawn.of(start, stop)), captions[start:stop]
        features = fidelity.features(extractor, images, device=device)
        scores = fidelity.clip_scores(clip, images, [one.caption for one in some])
        advance(len(images))
        return pd.DataFrame({"clip_score": scores, "features": list(features)})

    found, size = _table(kept, drawn, seen, advance, together=_TOGETHER), drawn.of(0, 1).shape[1:3]
    scores = found["clip_score"].to_numpy()
    columns = {"id": [one.key for one in captions], "caption": [one.caption for one in captions], "clip_score": scores}
    other = "" if len(captions) == fidelity.IMAGES else f" (COCO-30K has {fidelity.IMAGES:,})"
    protocol = (
        f"one image of {size[0]} x {size[1]} pixels for each of {len(captions):,} captions{other}; FID: antialiased "
        "bicubic to 299 x 299 in float (clean-fid); CLIP score: 100 max(cosine, 0), captions cut to 77 tokens"
    )
    units = fidelity.fidelity_units(captions, scores.tolist())
    counts = resample_counts(FIDELITY_POOL, len(captions), resamples=resamples)  # as the CLIP score is resampled
    fid = fidelity.distance_of(
        np.stack(found["features"].tolist()), reference, counts, device=device, advance=resampled
    )
    return Graded(pd.DataFrame(columns), units, protocol, {"fid": fid})


def _by_prompt(
    kept: Kept, drawn: Drawn, make: Callable[[int, list[Image.Image]], pd.DataFrame], advance: Advance
) -> pd.DataFrame:
    """Verdicts on the images of all prompts, made for one prompt at a time."""

    def some(start: int, stop: int) -> pd.DataFrame:
        tables = []
        for number in range(start, stop):
            tables.append(make(number, images := drawn.pictures(number)))
            advance(len(images))
        return pd.concat(tables, ignore_index=True)

    return _table(kept, drawn, some, advance, together=_KEPT_TOGETHER)


def _table(
    kept: Kept,
    drawn: Drawn,
    make: Callable[[int, int], pd.DataFrame],
    advance: Advance,
    *,
    together: int,
) -> pd.DataFrame:
    """Verdicts on the images of all prompts; those of earlier runs count as graded."""
    prompts, images = drawn.images.shape[:2]
    return kept.table(prompts, make, together=together, skip=lambda count: advance(count * images))
