"""How far our GenEval agrees with the released one: per image and kind, from the results file that it writes.

docs/geneval.md says how to make both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from hermesflow.benchmarks.geneval import (
    KINDS,
    TAGS,
    Detection,
    Metadata,
    grade,
    image_row,
    images_table,
    metadata_of,
    read_metadata,
)
from hermesflow.benchmarks.geneval_detector import ColorClassifier, Detector
from hermesflow.errors import DataError
from hermesflow.evaluation.statistics import GENEVAL_KINDS

RESULT_COLUMNS = ("prompt", "image", "kind", "caption", "accepted", "reason", "metadata", "details")
AGREEMENT_COLUMNS = ("kind", "images", "agreement", "ours", "theirs", "only_ours", "only_theirs")


def grade_folder(folder: Path, detector: Detector, classifier: ColorClassifier) -> pd.DataFrame:
    """Grade images that lie as the original wants them: `00012/metadata.jsonl` and `00012/samples/0003.png`.

    Args:
        folder: what evaluate_images.py is given.
        detector: finds objects.
        classifier: tells their colours.

    Returns:
        One row per image, in order of prompt and image: `geneval.TABLE_COLUMNS`.

    Raises:
        DataError: no images, or a prompt or image that cannot be read.
    """
    rows = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()):
        (metadata, *more) = read_metadata(place / "metadata.jsonl")
        if more:
            raise DataError(f"{place / 'metadata.jsonl'}: holds several prompts. Keep the one of this folder.")
        for number, image in _samples(place / "samples"):
            colour_of = partial(classifier.colors, image)
            rows.append(image_row(int(place.name), number, metadata, detector.detect(image), colour_of))
    if not rows:
        raise DataError(f"{folder}: holds no images like 00000/samples/0000.png. Name the folder of the images.")
    return images_table(rows)


def _samples(folder: Path) -> Iterator[tuple[int, Image.Image]]:
    for path in sorted(path for path in folder.glob("*.png") if path.stem.isdigit()):
        try:
            with Image.open(path) as opened:
                yield int(path.stem), opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Draw the image anew.") from error


def read_results(path: Path) -> pd.DataFrame:
    """Read a results file of GenEval's evaluate_images.py, one JSON object per image.

    Args:
        path: results.jsonl; its file names end in `00012/samples/0003.png` (prompt 12, image 3).

    Returns:
        One row per image, in order of prompt and image: RESULT_COLUMNS; `metadata` and `details` are JSON texts.

    Raises:
        DataError: unreadable, a line of another form, or two lines about one image.
    """
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Name the file that evaluate_images.py wrote.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_result(json.loads(line)))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise DataError(
                f"{path}, line {number}: is not a result of GenEval's evaluate_images.py ({type(error).__name__}: "
                f"{error}). Run evaluate_images.py of the original repository again."
            ) from error
    table = pd.DataFrame(rows, columns=list(RESULT_COLUMNS)).sort_values(["prompt", "image"], ignore_index=True)
    twice = table[table.duplicated(["prompt", "image"])]
    if len(twice):
        raise DataError(f"{path}: {_place(twice)} is there more than once. Keep one line per image.")
    return table


def _result(row: Mapping[str, Any]) -> tuple[int, int, str, str, bool, str, str, str]:
    parts = str(row["filename"]).replace("\\", "/").split("/")
    prompt, image = int(parts[-3]), int(parts[-1].split(".")[0])
    if parts[-2] != "samples" or type(row["correct"]) is not bool:
        raise ValueError(f"file name {row['filename']!r} or verdict {row['correct']!r}")
    metadata_of(json.loads(row["metadata"]))
    boxes = json.loads(row["details"])
    if any(len(box) != 5 for found in boxes.values() for box in found):
        raise ValueError("`details` must hold boxes of five numbers")
    kind, reason = KINDS[row["tag"]], row["reason"] or ""
    return prompt, image, kind, row["prompt"], row["correct"], reason, row["metadata"], row["details"]


def regraded(results: pd.DataFrame) -> pd.DataFrame:
    """Grade the original's detections by our rules, where no colour has to be looked up.

    This compares the rules alone: neither detector nor image is asked. The two must agree on every image.

    Args:
        results: as `read_results` gives them.

    Returns:
        The rows whose prompt names no colour, with our `accepted` and `reason`.
    """
    rows = []
    for row in results.itertuples(index=False):
        metadata = metadata_of(json.loads(str(row.metadata)))
        if any(clause.color for clause in metadata.include):
            continue
        rows.append((row.prompt, row.image, metadata.kind, metadata.prompt, *_verdict(metadata, str(row.details))))
    return pd.DataFrame(rows, columns=["prompt", "image", "kind", "caption", "accepted", "reason"])


def _verdict(metadata: Metadata, details: str) -> tuple[bool, str]:
    found = {
        name: [Detection((left, top, right, bottom), score) for left, top, right, bottom, score in boxes]
        for name, boxes in json.loads(details).items()
    }
    return grade(metadata, found, lambda name, objects: [])


def agreement(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Share of images on which two evaluations of the same images agree, per kind and over all.

    Args:
        ours: columns prompt, image, kind, accepted.
        theirs: likewise.

    Returns:
        One row per kind that occurs, and one `all`: AGREEMENT_COLUMNS. `ours` and `theirs` are shares of accepted
        images, `only_ours` and `only_theirs` numbers of images that one side alone accepts.

    Raises:
        DataError: the two are not about the same images.
    """
    keys = ["prompt", "image", "kind"]
    both = ours[[*keys, "accepted"]].merge(
        theirs[[*keys, "accepted"]], on=keys, how="outer", suffixes=("_ours", "_theirs"), indicator=True
    )
    alone = both[both["_merge"] != "both"]
    if len(alone):
        side = "ours" if alone.iloc[0]["_merge"] == "left_only" else "theirs"
        raise DataError(
            f"{len(alone)} images are graded by one side alone; the first is {_place(alone)} of {side}. "
            "Grade the same images and prompts on both sides."
        )
    parts = [(kind, both[both["kind"] == kind]) for kind in GENEVAL_KINDS]
    rows = []
    for kind, part in [*((kind, part) for kind, part in parts if len(part)), ("all", both)]:
        a, b = part["accepted_ours"].astype(bool), part["accepted_theirs"].astype(bool)
        rows.append((kind, len(part), (a == b).mean(), a.mean(), b.mean(), int((a & ~b).sum()), int((b & ~a).sum())))
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def _place(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"prompt {first['prompt']}, image {first['image']} ({TAGS[GENEVAL_KINDS.index(first['kind'])]})"
