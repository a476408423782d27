"""The sentences of the micro world.

Conventions that make the caption of an image a function of what can be seen (no two captions of one image are
equally right): see `world.make_scene`.
"""

from __future__ import annotations

from hermesflow.data.microworld.scenes import COLORS, SHAPES, SIZES
from hermesflow.data.worlds.language import KINDS, Lexicon, phrase
from hermesflow.data.worlds.scenes import CELLS, NUMBERS, Scene, relation_of

PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
LEXICON = Lexicon(noun_word="shape", plurals=PLURALS, groups=(SHAPES,), colors=tuple(COLORS), sizes=tuple(SIZES))


def caption_of(scene: Scene, kind: str) -> str:
    """The one caption of a scene made by `make_scene(kind, ...)`; objects are named in reading order.

    Raises:
        ValueError: unknown kind.
    """
    things = scene.objects
    marked = ["small" if thing.size == "small" else None for thing in things]  # large goes without saying
    if kind in ("single_object", "two_objects"):
        return " and ".join(phrase(t, color=False, size=m) for t, m in zip(things, marked, strict=True))
    if kind == "colors":
        return phrase(things[0], color=True, size=marked[0])
    if kind == "counting":
        return f"{NUMBERS[len(things) - 1]} {things[0].color} {PLURALS[str(things[0].noun)]}"
    if kind == "position":
        relation = relation_of(things[0].cell, things[1].cell)
        return f"{phrase(things[0], color=True, size=None)} {relation} {phrase(things[1], color=True, size=None)}"
    if kind == "color_attribution":
        return " and ".join(phrase(t, color=True, size=None) for t in things)
    if kind == "dense":
        return " , ".join(f"{phrase(t, color=True, size=t.size)} {CELLS[t.cell]}" for t in things)
    raise ValueError(f"unknown caption kind {kind!r}; use one of {KINDS}")
