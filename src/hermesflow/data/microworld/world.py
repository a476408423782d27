"""The micro world: seeded scenes, and the parts that their captions are split into.

What an image shows decides its caption: objects whose colour goes unsaid are black, objects whose size goes unsaid
are large or the kind never says sizes, two coloured objects side by side are a `position`, on a diagonal a
`color_attribution`, equal objects are a `counting`, three different ones a `dense`. Without this several captions
would be equally right and a preference between them noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hermesflow.data.microworld.captions import LEXICON, caption_of
from hermesflow.data.microworld.judge import read_images
from hermesflow.data.microworld.scenes import COLORS, SHAPES, SIZES, render
from hermesflow.data.worlds.language import KINDS
from hermesflow.data.worlds.scenes import Scene, SceneObject
from hermesflow.data.worlds.world import World, bucket_at, draw, split_share

UNMARKED_COLOR = "black"
"""The colour of objects whose caption does not say it."""

_PLAIN_KINDS = ("single_object", "two_objects")
_SINGLE_BUCKETS = ("train",) * 5 + ("gap",) + ("benchmark",) * 2


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
        shape, color, size = draw(SHAPES, generator), draw(tuple(COLORS), generator), draw(tuple(SIZES), generator)
        return Scene(tuple(SceneObject(shape, color, size, cell) for cell in cells))
    while True:
        things = tuple(_draw_object(kind, cell, generator) for cell in cells)
        looks = {(t.noun, t.color) for t in things}
        unmarked = {thing.color for thing in things} == {UNMARKED_COLOR}
        if len(looks) == len(things) and unmarked == (kind in _PLAIN_KINDS):
            return Scene(things)


def bucket_of(caption: str) -> str:
    """The part a caption belongs to: train 70 %, gap 10 %, benchmark 20 %, by a hash of its text."""
    single = _single_object_captions()
    if caption in single:  # a hash of so few captions could leave a part empty: their rank is split instead
        return _SINGLE_BUCKETS[single.index(caption)]
    return bucket_at(split_share(caption))


def _cells(kind: str, generator: np.random.Generator) -> tuple[int, ...]:
    if kind in ("single_object", "colors"):
        return (int(generator.integers(4)),)
    if kind == "position":
        return draw(((0, 1), (2, 3), (0, 2), (1, 3)), generator)
    if kind == "color_attribution":
        return draw(((0, 3), (1, 2)), generator)
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
    color = UNMARKED_COLOR if kind in _PLAIN_KINDS else draw(tuple(COLORS), generator)
    return SceneObject(draw(SHAPES, generator), color, draw(tuple(SIZES), generator), cell)


@cache
def _single_object_captions() -> tuple[str, ...]:
    scenes = [Scene((SceneObject(shape, UNMARKED_COLOR, size, 0),)) for shape in SHAPES for size in SIZES]
    return tuple(sorted((caption_of(scene, "single_object") for scene in scenes), key=split_share))


WORLD = World(
    name="microworld",
    title="micro world",
    shows="flat shapes",
    reading="segmentation and shape matching",
    lexicon=LEXICON,
    make_scene=make_scene,
    caption_of=caption_of,
    render=render,
    read_images=read_images,
    bucket_of=bucket_of,
)
