"""The sentences of the micro world: writing a scene's caption and reading what a caption says.

Conventions that make the caption of an image a function of what can be seen (no two captions of one image are
equally right): see `microworld.make_scene`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hermesflow.data.microworld.scenes import CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject

GENEVAL_KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
KINDS = (*GENEVAL_KINDS, "dense")
NUMBERS = ("one", "two", "three", "four")
RELATIONS = ("above", "below", "left of", "right of")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}

_SINGULARS = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
_CONVERSE = {"above": "below", "left of": "right of", "below": "above", "right of": "left of"}


@dataclass(frozen=True)
class Mention:
    """One noun phrase: how many of what, and where, if given."""

    count: int
    shape: str
    color: str | None = None
    size: str | None = None
    cell: int | None = None

    def matches(self, thing: SceneObject) -> bool:
        """Whether everything the phrase states about each of these objects holds for `thing`."""
        pairs = ((self.shape, thing.shape), (self.color, thing.color), (self.size, thing.size), (self.cell, thing.cell))
        return all(word is None or word == seen for word, seen in pairs)


@dataclass(frozen=True)
class Facts:
    """What a caption says."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...]
    """(a, relation, b): mention a is above / below / left of / right of mention b."""


def phrase(thing: SceneObject | Mention, *, color: bool, size: str | None) -> str:
    """A noun phrase, e.g. "a small red circle"; `size` is the size word to say, if any."""
    words = [word for word in (size, thing.color if color else None, thing.shape) if word]
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def relation_of(first: int, second: int) -> str | None:
    """How cell `first` lies to cell `second`: one of `RELATIONS`, None for the same cell and for diagonals."""
    (row_a, column_a), (row_b, column_b) = divmod(first, 2), divmod(second, 2)
    if column_a == column_b and row_a != row_b:
        return "above" if row_a < row_b else "below"
    if row_a == row_b and column_a != column_b:
        return "left of" if column_a < column_b else "right of"
    return None


def converse(relation: str) -> str:
    """The relation seen from the other object."""
    return _CONVERSE[relation]


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
        return f"{NUMBERS[len(things) - 1]} {things[0].color} {PLURALS[str(things[0].shape)]}"
    if kind == "position":
        relation = relation_of(things[0].cell, things[1].cell)
        return f"{phrase(things[0], color=True, size=None)} {relation} {phrase(things[1], color=True, size=None)}"
    if kind == "color_attribution":
        return " and ".join(phrase(t, color=True, size=None) for t in things)
    if kind == "dense":
        return " , ".join(f"{phrase(t, color=True, size=t.size)} {CELLS[t.cell]}" for t in things)
    raise ValueError(f"unknown caption kind {kind!r}; use one of {KINDS}")


def parse_caption(text: str) -> Facts | None:
    """Read a caption of the world, or a model's free text that is close to one.

    Lenient: letter case, a missing article, a comma instead of "and", a full stop. Every word must be understood.

    Returns:
        What the text says, or None if it is not a sentence of the world.
    """
    words = text.lower().replace(",", " , ").replace(".", " ").split()
    mentions: list[Mention] = []
    relations: list[tuple[int, str, int]] = []
    position = 0
    while position < len(words):
        if mentions:
            joint, position = _joint(words, position)
            if joint is None:
                return None
            if joint in RELATIONS:
                relations.append((len(mentions) - 1, joint, len(mentions)))
        mention, position = _mention(words, position)
        if mention is None:
            return None
        mentions.append(mention)
    return Facts(tuple(mentions), tuple(relations)) if mentions else None


def _joint(words: list[str], position: int) -> tuple[str | None, int]:
    pair = " ".join(words[position : position + 2])
    if pair in (*RELATIONS, ", and"):
        return pair, position + 2
    if words[position] in (*RELATIONS, "and", ","):
        return words[position], position + 1
    return None, position


def _mention(words: list[str], position: int) -> tuple[Mention | None, int]:
    numbers = {"a": 1, "an": 1, "the": 1} | {word: i + 1 for i, word in enumerate(NUMBERS)}

    def take(known: object) -> str | None:
        nonlocal position
        if position < len(words) and words[position] in known:  # type: ignore[operator]
            position += 1
            return words[position - 1]
        return None

    count = numbers[take(numbers) or "a"]
    size, color, noun = take(SIZES), take(COLORS), take(_SINGULARS)
    if noun is None:
        return None, position
    cell = " ".join(words[position : position + 2])
    if cell in CELLS:
        position += 2
    where = CELLS.index(cell) if cell in CELLS else None
    return Mention(count, _SINGULARS[noun], color, size, where), position
