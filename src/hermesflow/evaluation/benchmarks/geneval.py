"""GenEval: what a prompt asks for, what a detector found in an image, and whether the two agree.

The rules are those of the released evaluation, so that figures can be compared: only the most confident objects of a
class are looked at, further ones do no harm unless the prompt excludes them, and nothing is suppressed by overlap.
The detector and the colour classifier are in `geneval_detector`; the comparison with released results is in
`geneval_parity` (docs/geneval.md).

Source: Ghosh et al. 2023 (GenEval, arXiv 2310.11513), and evaluation/evaluate_images.py of its repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hermesflow.core.errors import DataError
from hermesflow.evaluation.metrics import GENEVAL_KINDS

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's own names of the six kinds, in the order of `GENEVAL_KINDS`."""
KINDS = dict(zip(TAGS, GENEVAL_KINDS, strict=True))
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
CONFIDENCE = 0.3
COUNTING_CONFIDENCE = 0.9
MOST_OBJECTS = 16
"""At most so many objects of a class are kept."""
POSITION_THRESHOLD = 0.1
"""Centres must lie further apart than this share of the two objects' summed extents."""
TABLE_COLUMNS = ("prompt", "image", "kind", "caption", "accepted", "reason", "detections")
_NO_OFFSET = 1e-3  # pixels
_DIRECTION = 0.5  # sine or cosine of 30 degrees: how far a relation reaches


@dataclass(frozen=True)
class Clause:
    """So many objects of one class, perhaps of a colour, perhaps placed relative to an earlier clause's objects."""

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None
    """Relation, and index of the earlier clause of `include` it refers to."""


@dataclass(frozen=True)
class Metadata:
    """One line of evaluation_metadata.jsonl."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @property
    def kind(self) -> str:
        """The kind's name in `GENEVAL_KINDS`."""
        return KINDS[self.tag]

    @property
    def confidence(self) -> float:
        """What a detection's score must exceed."""
        return COUNTING_CONFIDENCE if self.tag == "counting" else CONFIDENCE


@dataclass(frozen=True)
class Detection:
    """One object found in an image."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    score: float
    mask: np.ndarray | None = None
    """(H, W) bool, True on the object."""


Detections = Mapping[str, Sequence[Detection]]
"""Objects by GenEval's class name; those of a class from the most confident to the least."""
ColourOf = Callable[[str, Sequence[Detection]], Sequence[str]]
"""Colours of some objects of a class, one of COLORS each."""


def read_metadata(path: Path) -> list[Metadata]:
    """Read prompts in GenEval's own format, one JSON object a line.

    Args:
        path: evaluation_metadata.jsonl.

    Raises:
        DataError: unreadable, or a line that says something else than GenEval's lines do.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Name GenEval's evaluation_metadata.jsonl.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(metadata_of(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: is not a line of GenEval's evaluation_metadata.jsonl "
                f"({type(error).__name__}: {error}). Take the file of the original repository, or correct the line."
            ) from error
    if not found:
        raise DataError(f"{path}: holds no prompts. Take prompts/evaluation_metadata.jsonl of the original repository.")
    return found


def metadata_of(row: Mapping[str, Any]) -> Metadata:
    """Check one decoded line.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is no line of GenEval's.
    """
    if row["tag"] not in KINDS:
        raise ValueError(f"tag {row['tag']!r} is none of {', '.join(TAGS)}")
    include = tuple(_clause(clause, before) for before, clause in enumerate(row["include"]))
    exclude = tuple(_clause(clause, 0) for clause in row.get("exclude", ()))
    if not include or not isinstance(row["prompt"], str) or not row["prompt"]:
        raise ValueError("`include` or `prompt` is empty")
    return Metadata(row["tag"], row["prompt"], include, exclude)


def _clause(clause: Mapping[str, Any], before: int) -> Clause:
    count, color, position = clause["count"], clause.get("color"), clause.get("position")
    if clause["class"] not in OBJECTS:
        raise ValueError(f"class {clause['class']!r} is none of GenEval's 80 objects")
    if type(count) is not int or count < 1:
        raise ValueError(f"{clause} needs a count of 1 or more")
    if color is not None and color not in COLORS:
        raise ValueError(f"color {color!r} is none of {', '.join(COLORS)}")
    if position is None:
        return Clause(clause["class"], count, color)
    relation, target = position
    if relation not in RELATIONS or type(target) is not int or not 0 <= target < before:
        raise ValueError(f"position {position!r} needs one of {', '.join(RELATIONS)} and the index of an earlier class")
    return Clause(clause["class"], count, color, (relation, target))


def strongest(detections: Detections, confidence: float) -> dict[str, list[Detection]]:
    """The objects that are graded: score above the confidence, at most 16 a class, the most confident first."""
    kept = {}
    for name, found in detections.items():
        good = sorted((one for one in found if one.score > confidence), key=lambda one: -one.score)
        if good:
            kept[name] = good[:MOST_OBJECTS]
    return kept


def grade(metadata: Metadata, detections: Detections, colour_of: ColourOf) -> tuple[bool, str]:
    """Whether an image shows what its prompt asks for, by the released rules.

    Every clause of `include` must hold for the `count` most confident objects of its class: all of them of the colour,
    all of them in the relation to all objects of the clause referred to (which must itself hold). No class of
    `exclude` may have `count` objects or more.

    Args:
        metadata: the prompt.
        detections: as `strongest` leaves them.
        colour_of: asked only where a colour is wanted and there are enough objects.

    Returns:
        Right or not, and what is wrong, one line per clause; empty where all is right.
    """
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in metadata.include:
        found = detections.get(clause.name, ())[: clause.count]
        wrong = _wrong(clause, found, matched, colour_of)
        reasons += [wrong] if wrong else []
        matched.append(None if wrong else found)
    for clause in metadata.exclude:
        count = len(detections.get(clause.name, ()))
        if count >= clause.count:
            reasons.append(f"expected {clause.name}<{clause.count}, found {count}")
    return not reasons, "\n".join(reasons)


def _wrong(
    clause: Clause, found: Sequence[Detection], matched: Sequence[Sequence[Detection] | None], colour_of: ColourOf
) -> str:
    if len(found) < clause.count:
        return f"expected {clause.name}>={clause.count}, found {len(found)}"
    if clause.color is not None:
        colors = list(colour_of(clause.name, found))
        right = colors.count(clause.color)
        if right < clause.count:
            seen = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
            return f"expected {clause.color} {clause.name}>={clause.count}, found {right} {clause.color}; and {seen}"
    if clause.position is not None:
        relation, index = clause.position
        targets = matched[index]
        if targets is None:
            return f"no target for {clause.name} to be {relation}"
        for one in found:
            for target in targets:
                relations = relative_position(one.box, target.box)
                if relation not in relations:
                    return f"expected {clause.name} {relation} target, found {' and '.join(sorted(relations))} target"
    return ""


def relative_position(box: Sequence[float], target: Sequence[float]) -> set[str]:
    """Where a box lies relative to another one: none, one or two of RELATIONS.

    The offset of the centres is shortened by 0.1 of the two summed widths (heights) and divided by its full length;
    what remains must exceed one half.

    Args:
        box: left, top, right, bottom in pixels.
        target: likewise.

    Source: evaluate_images.py of GenEval, `relative_position`.
    """
    a, b = (np.asarray(one, dtype=np.float64).reshape(2, 2) for one in (box, target))
    offset = a.mean(axis=0) - b.mean(axis=0)
    extents = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    beyond = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_THRESHOLD * extents, 0)
    if np.all(np.abs(beyond) < _NO_OFFSET):
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    holds = (dx < -_DIRECTION, dx > _DIRECTION, dy < -_DIRECTION, dy > _DIRECTION)
    return {relation for relation, true in zip(RELATIONS, holds, strict=True) if true}


def image_row(
    prompt: int, image: int, metadata: Metadata, detections: Detections, colour_of: ColourOf
) -> tuple[int, int, str, str, bool, str, str]:
    """Grade one image: a row of TABLE_COLUMNS.

    Args:
        prompt: number of the prompt in evaluation_metadata.jsonl, from 0.
        image: number of the image among those of its prompt, from 0.
        metadata: the prompt.
        detections: all that the detector found, whatever its score.
        colour_of: the colour classifier on this image.
    """
    kept = strongest(detections, metadata.confidence)
    right, reason = grade(metadata, kept, colour_of)
    boxes = {name: [[*one.box, one.score] for one in found] for name, found in sorted(kept.items())}
    return prompt, image, metadata.kind, metadata.prompt, right, reason, json.dumps(boxes)


def images_table(rows: Sequence[tuple[int, int, str, str, bool, str, str]]) -> pd.DataFrame:
    """One row per image: TABLE_COLUMNS.

    `evaluation.generation.geneval_units` makes the bootstrap's units of it: a kind's figure is the mean over its
    images, the overall figure the mean of the six kinds.
    """
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))
