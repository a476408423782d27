"""Stage `judge`: how far the independent judge can be trusted, on real images and on tokenizer reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, write_json
from hermesflow.data.microworld.captions import parse_caption
from hermesflow.data.microworld.judge import read_images
from hermesflow.data.microworld.questions import Question
from hermesflow.data.microworld.scenes import Scene
from hermesflow.data.microworld.verdicts import accepts, answer
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.backbone import ImageCodec, load_codec

SPLIT = "gap"
"""Images neither tokenizer nor base model has been trained on."""
ATTRIBUTES = ("shape", "color", "size")


def run(config: Config, layout: Layout) -> None:
    """Read the images of the gap split and their reconstructions, and write `judge/judge.json`.

    Pairs from elsewhere have no judge: the file says why, so that the report has an empty table with the reason.
    """
    dataset = read_pairs(layout.data(SPLIT))
    if not any(parse_caption(caption) for caption in dataset["caption"]):
        write_json(layout.judge, {"no judge": "no caption is a sentence of the micro world, which alone it reads"})
        return
    images, rows = images_of(dataset), dataset.remove_columns("image").to_list()
    codec = load_codec(layout.tokenizer, device=config.runtime.device)
    real, rebuilt = read_images(images), read_images(reconstruct(codec, images, batch=64))
    write_json(layout.judge, measure(real, rebuilt, rows))


def measure(real: Sequence[Scene], rebuilt: Sequence[Scene], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of `judge/judge.json`.

    Args:
        real: what the judge reads off the images.
        rebuilt: what it reads off their reconstructions.
        rows: the pairs they belong to (caption, kind, questions).

    Returns:
        "real images" and "reconstructions", each with "all" and every caption kind, each with shares of `truth`, and
        for reconstructions of `agreement`.
    """
    result: dict[str, Any] = {"real images": {}, "reconstructions": {}}
    for kind in ("all", *sorted({row["kind"] for row in rows})):
        chosen = [index for index, row in enumerate(rows) if kind in ("all", row["kind"])]
        ours, theirs = [real[index] for index in chosen], [rebuilt[index] for index in chosen]
        pairs = [rows[index] for index in chosen]
        result["real images"][kind] = truth(ours, pairs)
        result["reconstructions"][kind] = {**truth(theirs, pairs), **agreement(ours, theirs)}
    return result


def reconstruct(codec: ImageCodec, images: np.ndarray, *, batch: int) -> np.ndarray:
    """Encode and decode images.

    Args:
        codec: the image tokenizer.
        images: (N, H, W, 3) uint8.
        batch: images at once.

    Returns:
        (N, H, W, 3) uint8.
    """
    starts = range(0, len(images), batch)
    return np.concatenate([codec.to_pixels(codec.encode(images[start : start + batch])) for start in starts])


def truth(scenes: Sequence[Scene], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of captions the judge accepts and of questions it answers as the captions do."""
    accepted = [accepts(scene, row["caption"]) for scene, row in zip(scenes, rows, strict=True)]
    right = [
        answer(scene, Question(q["question"], tuple(q["choices"]), q["answer"], q["kind"])) == q["answer"]
        for scene, row in zip(scenes, rows, strict=True)
        for q in row["questions"]
    ]
    return {"images": len(rows), "captions accepted": _mean(accepted), "questions right": _mean(right)}


def agreement(originals: Sequence[Scene], others: Sequence[Scene]) -> dict[str, float]:
    """How often the judge reads an image as it reads its original.

    Returns:
        Shares: `same scene` and `same cells` (where objects are) over images, and `same shape`, `same color`,
        `same size` over the objects of the originals; an object that is gone or unreadable is not the same.
    """
    pairs = list(zip(originals, others, strict=True))
    result = {
        "same scene": _mean([a == b for a, b in pairs]),
        "same cells": _mean([_cells(a) == _cells(b) for a, b in pairs]),
    }
    for attribute in ATTRIBUTES:
        same = []
        for original, other in pairs:
            there = {thing.cell: getattr(thing, attribute) for thing in other.objects}
            same += [there.get(thing.cell) == getattr(thing, attribute) for thing in original.objects]
        result[f"same {attribute}"] = _mean(same)
    return result


def _cells(scene: Scene) -> tuple[int, ...]:
    return tuple(thing.cell for thing in scene.objects)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
