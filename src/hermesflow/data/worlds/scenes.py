"""What a judge reads off an image of a world: objects in a 2 x 2 grid of cells, and perhaps a ground."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CELLS = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("one", "two", "three", "four")
RELATIONS = ("above", "below", "left of", "right of")
DIRECTIONS = ("above", "below", "left", "right")
"""Answers of "where" questions: `RELATIONS` in one word each."""

_CONVERSE = {"above": "below", "left of": "right of", "below": "above", "right of": "left of"}


@dataclass(frozen=True)
class SceneObject:
    """One object; an attribute that the judge could not read, or that its world does not have, is None."""

    noun: str | None
    color: str | None
    size: str | None
    cell: int
    """0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    look: Any = field(default=None, compare=False)
    """What its world's `render` must know besides; it is neither said nor read."""


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, at most one per cell."""

    objects: tuple[SceneObject, ...]
    ground: str | None = None
    """What they stand on; None in a world with one ground."""


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
