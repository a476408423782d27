"""The sentences of the pictures world.

What an image shows decides its caption: natural colours go without saying, tints are always said; two pictures side
by side are a `position`, on a diagonal `two_objects`, `color_attribution` or a `counting`. A `position` is said from
above or from the left in the top row and the left column, from below or from the right in the others, so that all four
relations are said of any two nouns and yet every image has one caption. A single object's ground is said unless it is
snow: so there is enough to split where GenEval's own "a photo of a car" is kept out.
"""

from __future__ import annotations

from hermesflow.data.pictures.scenes import GROUNDS, PLAIN_GROUND
from hermesflow.data.pictures.sprites import PICTURES, TINTS
from hermesflow.data.worlds.language import KINDS, Lexicon, phrase
from hermesflow.data.worlds.scenes import CELLS, NUMBERS, Scene, relation_of

_ODD_PLURALS = {"bus": "buses", "sandwich": "sandwiches", "sheep": "sheep", "fish": "fish", "butterfly": "butterflies"}
_GROUPS = {"vehicles": 8, "animals": 17, "food": 8, "things": 15}
_PHRASES = {"snow": "on snow", "grass": "on grass", "sand": "on sand", "sky": "in the sky", "night": "at night"}


def _groups() -> tuple[tuple[str, ...], ...]:
    nouns, groups = list(PICTURES), []
    for count in _GROUPS.values():
        groups.append(tuple(nouns[:count]))
        del nouns[:count]
    return tuple(groups)


LEXICON = Lexicon(
    noun_word="thing",
    plurals={noun: _ODD_PLURALS.get(noun, f"{noun}s") for noun in PICTURES},
    groups=_groups(),
    colors=tuple(TINTS),
    grounds={ground: _PHRASES[ground] for ground in GROUNDS},
)


def caption_of(scene: Scene, kind: str) -> str:
    """The one caption of a scene made by `world.make_scene(kind, ...)`.

    Raises:
        ValueError: unknown kind.
    """
    things = scene.objects
    ground = f" {_PHRASES[str(scene.ground)]}"
    if kind == "single_object":
        return phrase(things[0], color=False, size=None) + (ground if scene.ground != PLAIN_GROUND else "")
    if kind == "counting":
        return f"{NUMBERS[len(things) - 1]} {LEXICON.plurals[str(things[0].noun)]}"
    if kind == "position":
        first, second = things if 0 in (things[0].cell, things[1].cell) else things[::-1]
        relation = relation_of(first.cell, second.cell)
        return f"{phrase(first, color=False, size=None)} {relation} {phrase(second, color=False, size=None)}"
    if kind in ("two_objects", "colors", "color_attribution"):
        return " and ".join(phrase(t, color=kind != "two_objects", size=None) for t in things)
    if kind == "dense":
        return " , ".join(f"{phrase(t, color=True, size=None)} {CELLS[t.cell]}" for t in things) + ground
    raise ValueError(f"unknown caption kind {kind!r}; use one of {KINDS}")
