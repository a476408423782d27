"""Stage `judge`: how far the independent judge can be trusted, on real images and on tokenizer reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, write_json
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.data.worlds.language import Lexicon, wrong_captions
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import Scene
from hermesflow.data.worlds.world import World, world_of
from hermesflow.models.backbone import ImageCodec, load_codec

SPLIT = "gap"
"""Images neither tokenizer nor base model has been trained on."""
GONE = "gone"
"""Stands for the attributes of an object that is not there; natural colours without a name are None."""


def run(config: Config, layout: Layout) -> None:
    """Read the images of the gap split and their reconstructions, and write `judge/judge.json`.

    Pairs from elsewhere have no judge: the file says why, so that the report has an empty table with the reason.
    """
    dataset, world = read_pairs(layout.data(SPLIT)), world_of(config.data)
    if not any(world.parse_caption(caption) for caption in dataset["caption"]):
        reason = f"no caption is a sentence of the {world.title}, which alone it reads"
        write_json(layout.judge, {"no judge": reason})
        return
    images, rows = images_of(dataset), dataset.remove_columns("image").to_list()
    codec = load_codec(layout.tokenizer, device=config.runtime.device)
    real, rebuilt = world.read_images(images), world.read_images(reconstruct(codec, images, batch=64))
    write_json(layout.judge, measure(real, rebuilt, rows, world))


def measure(
    real: Sequence[Scene], rebuilt: Sequence[Scene], rows: Sequence[Mapping[str, Any]], world: World
) -> dict[str, Any]:
    """The content of `judge/judge.json`.

    Args:
        real: what the judge reads off the images.
        rebuilt: what it reads off their reconstructions.
        rows: the pairs they belong to (caption, kind, questions).
        world: whose judge it is.

    Returns:
        "real images" and "reconstructions", each with "all" and every caption kind, each with shares of `truth`, and
        for reconstructions of `agreement`.
    """
    result: dict[str, Any] = {"real images": {}, "reconstructions": {}}
    for kind in ("all", *sorted({row["kind"] for row in rows})):
        chosen = [index for index, row in enumerate(rows) if kind in ("all", row["kind"])]
        ours, theirs = [real[index] for index in chosen], [rebuilt[index] for index in chosen]
        pairs = [rows[index] for index in chosen]
        result["real images"][kind] = truth(ours, pairs, world)
        result["reconstructions"][kind] = {**truth(theirs, pairs, world), **agreement(ours, theirs, world.lexicon)}
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


def truth(scenes: Sequence[Scene], rows: Sequence[Mapping[str, Any]], world: World) -> dict[str, float]:
    """Shares of captions accepted, questions answered as the captions do, and captions with one fact wrong rejected."""
    accepted = [world.accepts(scene, row["caption"]) for scene, row in zip(scenes, rows, strict=True)]
    right = [
        world.answer(scene, Question(q["question"], tuple(q["choices"]), q["answer"], q["kind"])) == q["answer"]
        for scene, row in zip(scenes, rows, strict=True)
        for q in row["questions"]
    ]
    rejected = [
        not world.accepts(scene, wrong)
        for scene, row in zip(scenes, rows, strict=True)
        for wrong in wrong_captions(row["caption"], world.lexicon)
    ]
    return {
        "images": len(rows),
        "captions accepted": _mean(accepted),
        "questions right": _mean(right),
        "wrong captions rejected": _mean(rejected),
    }


def agreement(originals: Sequence[Scene], reconstructions: Sequence[Scene], lexicon: Lexicon) -> dict[str, float]:
    """How often the judge reads an image as it reads its original.

    Returns:
        Shares: `same scene`, `same cells` (where objects are) and, where there are several, `same ground` over images,
        and `same shape` (or what the world calls its nouns), `same color` and, where there are sizes, `same size` over
        the objects of the originals; an object that is gone or unreadable is not the same.
    """
    pairs = list(zip(originals, reconstructions, strict=True))
    result = {
        "same scene": _mean([a == b for a, b in pairs]),
        "same cells": _mean([_cells(a) == _cells(b) for a, b in pairs]),
    }
    if lexicon.grounds:
        result["same ground"] = _mean([a.ground == b.ground for a, b in pairs])
    attributes = {lexicon.noun_word: "noun", "color": "color"} | ({"size": "size"} if lexicon.sizes else {})
    for name, attribute in attributes.items():
        same = []
        for original, other in pairs:
            values = {thing.cell: getattr(thing, attribute) for thing in other.objects}
            same += [values.get(thing.cell, GONE) == getattr(thing, attribute) for thing in original.objects]
        result[f"same {name}"] = _mean(same)
    return result


def _cells(scene: Scene) -> tuple[int, ...]:
    return tuple(thing.cell for thing in scene.objects)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
