"""GenEval's prompts, drawn as its authors drew them; nothing of its files is needed.

Source: Ghosh et al. 2023 (GenEval), prompts/create_prompts.py of its repository: numpy's default generator with seed 43
draws every object once, then five times 100 prompts, of which repeats are dropped: 553 are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

OBJECTS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""GenEval's names of the 80 COCO objects."""
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
SEED = 43
PROMPTS_PER_KIND = 100
MOST = 4


@dataclass(frozen=True)
class Prompt:
    """What one prompt asks for."""

    kind: str
    objects: tuple[str, ...]
    """One or two of `OBJECTS`."""
    colors: tuple[str, ...] = ()
    """Of the objects, where the kind says them."""
    count: int = 1
    relation: str | None = None
    """How the first object lies to the second."""


@cache
def prompts() -> tuple[Prompt, ...]:
    """All 553, in GenEval's order."""
    rng = np.random.default_rng(SEED)
    rows = [Prompt(KINDS[0], (OBJECTS[i],)) for i in rng.choice(len(OBJECTS), size=len(OBJECTS), replace=False)]
    for kind in KINDS[1:]:
        rows += [_draw(kind, rng) for _ in range(PROMPTS_PER_KIND)]
    return tuple(dict.fromkeys(rows))


def _draw(kind: str, rng: np.random.Generator) -> Prompt:
    """One prompt; persons, the first object, are never given a colour."""
    number, colored = 1 + (kind not in ("counting", "colors")), kind in ("colors", "color_attribution")
    objects, size = OBJECTS[colored:], None if number == 1 else number
    names = tuple(objects[i] for i in np.atleast_1d(rng.choice(len(objects), size=size, replace=False)))
    if kind == "counting":
        return Prompt(kind, names, count=int(rng.integers(2, MOST, endpoint=True)))
    if colored:
        return Prompt(kind, names, tuple(COLORS[i] for i in np.atleast_1d(rng.choice(10, size=size, replace=False))))
    return Prompt(kind, names, relation=RELATIONS[rng.choice(4)] if kind == "position" else None)
