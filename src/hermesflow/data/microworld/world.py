"""The micro world: seeded scenes, their captions and questions, and splits that share no caption.

What an image shows decides its caption: objects whose colour goes unsaid are black, objects whose size goes unsaid
are large or the kind never says sizes, two coloured objects side by side are a `position`, on a diagonal a
`color_attribution`, equal objects are a `counting`, three different ones a `dense`. Without this several captions
would be equally right and a preference between them noise.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from random import Random
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from hermesflow.config.sections import Data
from hermesflow.core.seeding import seed_of
from hermesflow.data.microworld.captions import KINDS, caption_of
from hermesflow.data.microworld.questions import Question, questions_of, varied_questions_of
from hermesflow.data.microworld.scenes import COLORS, SHAPES, SIZES, Scene, SceneObject, render

BUCKETS = {"base": "train", "pairs": "train", "gap": "gap", "understanding": "benchmark", "prompts": "benchmark"}
"""Which part of the captions a split draws from."""

UNMARKED_COLOR = "black"
"""The colour of objects whose caption does not say it."""

_PLAIN_KINDS = ("single_object", "two_objects")
_SINGLE_BUCKETS = ("train",) * 5 + ("gap",) + ("benchmark",) * 2

T = TypeVar("T")

_FRESH_DRAWS = 60  # draws in a row without a new caption after which captions may repeat


def make_scene(kind: str, generator: np.random.Generator) -> Scene:
    """Draw a scene of one caption kind.

    Args:
        kind: one of `KINDS`.
        generator: source of randomness; the scene depends on nothing else.

    Returns:
        Objects in reading order.

    Raises:
        ValueError: unknown kind.
    """
    cells = _cells(kind, generator)
    if kind == "counting":
        shape, color, size = _draw(SHAPES, generator), _draw(tuple(COLORS), generator), _draw(tuple(SIZES), generator)
        return Scene(tuple(SceneObject(shape, color, size, cell) for cell in cells))
    while True:
        things = tuple(_draw_object(kind, cell, generator) for cell in cells)
        looks = {(t.shape, t.color) for t in things}
        unmarked = {thing.color for thing in things} == {UNMARKED_COLOR}
        if len(looks) == len(things) and unmarked == (kind in _PLAIN_KINDS):
            return Scene(things)


def make_pairs(split: str, count: int, *, config: Data, kinds: Sequence[str] = KINDS) -> Iterator[dict[str, Any]]:
    """Rows of one split, kinds taking turns; each kind of each split has its own stream of random numbers.

    Captions do not repeat before the split's captions of that kind are (nearly) used up, except in `base`, which is
    for training from scratch: its captions repeat and its questions are ever new ones.

    Args:
        split: a key of `BUCKETS`.
        count: number of rows.
        config: the data section (seed, image size).
        kinds: caption kinds to take in turn.

    Yields:
        Rows of `pairs.SCHEMA`: id, image (PNG bytes), caption, kind, questions. The first rows do not depend on
        `count`.

    Raises:
        KeyError: unknown split.
    """
    bucket = BUCKETS[split]
    generators = {kind: np.random.default_rng(seed_of("microworld", config.seed, split, kind)) for kind in kinds}
    varied = Random(seed_of("microworld", config.seed, split, "questions"))
    seen: dict[str, set[str]] = {kind: set() for kind in kinds}
    for index in range(count):
        kind = kinds[index % len(kinds)]
        fresh = None if split == "base" else seen[kind]
        scene, caption = _scene_of(bucket, kind, generators[kind], fresh)
        asked = varied_questions_of(caption, varied) if split == "base" else questions_of(caption)
        yield {
            "id": f"{split}-{kind}-{index // len(kinds):05d}",
            "image": {"bytes": encode_png(render(scene, image_size=config.image_size)), "path": None},
            "caption": caption,
            "kind": kind,
            "questions": [_as_row(question) for question in asked],
        }


def bucket_of(caption: str) -> str:
    """The part a caption belongs to: train 70 %, gap 10 %, benchmark 20 %, by a hash of its text."""
    single = _single_object_captions()
    if caption in single:  # a hash of so few captions could leave a part empty: their rank is split instead
        return _SINGLE_BUCKETS[single.index(caption)]
    share = _share(caption)
    return "train" if share < 0.7 else "gap" if share < 0.8 else "benchmark"


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a (H, W, 3) uint8 image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _scene_of(bucket: str, kind: str, generator: np.random.Generator, seen: set[str] | None) -> tuple[Scene, str]:
    stale = 0
    while True:
        scene = make_scene(kind, generator)
        caption = caption_of(scene, kind)
        if _cached_bucket(caption) != bucket:
            continue
        if seen is None:
            return scene, caption
        if caption in seen and stale < _FRESH_DRAWS:
            stale += 1
            continue
        if caption in seen:
            seen.clear()
        seen.add(caption)
        return scene, caption


def _cells(kind: str, generator: np.random.Generator) -> tuple[int, ...]:
    if kind in ("single_object", "colors"):
        return (int(generator.integers(4)),)
    if kind == "position":
        return _draw(((0, 1), (2, 3), (0, 2), (1, 3)), generator)
    if kind == "color_attribution":
        return _draw(((0, 3), (1, 2)), generator)
    if kind == "two_objects":
        number = 2
    elif kind == "counting":
        number = int(generator.integers(2, 5))
    elif kind == "dense":
        number = 3
    else:
        raise ValueError(f"unknown caption kind {kind!r}; use one of {KINDS}")
    return tuple(sorted(int(cell) for cell in generator.permutation(4)[:number]))


def _draw_object(kind: str, cell: int, generator: np.random.Generator) -> SceneObject:
    color = UNMARKED_COLOR if kind in _PLAIN_KINDS else _draw(tuple(COLORS), generator)
    return SceneObject(_draw(SHAPES, generator), color, _draw(tuple(SIZES), generator), cell)


def _draw(choices: Sequence[T], generator: np.random.Generator) -> T:
    return choices[int(generator.integers(len(choices)))]


def _as_row(question: Question) -> dict[str, Any]:
    return {
        "question": question.question,
        "choices": list(question.choices),
        "answer": question.answer,
        "kind": question.kind,
    }


@cache
def _single_object_captions() -> tuple[str, ...]:
    scenes = [Scene((SceneObject(shape, UNMARKED_COLOR, size, 0),)) for shape in SHAPES for size in SIZES]
    return tuple(sorted((caption_of(scene, "single_object") for scene in scenes), key=_share))


_cached_bucket = cache(bucket_of)


def _share(caption: str) -> float:
    """A number in [0, 1) that depends on the caption alone."""
    return seed_of("bucket", caption) / 2**63
