"""How far our GenEval agrees with the released one: per image and kind, from the results file that it writes.

docs/geneval.md says how to make both sides; `hermesflow geneval-parity` runs what is here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from hermesflow.core.errors import DataError
from hermesflow.core.progress import Progress
from hermesflow.evaluation.benchmarks.geneval import (
    KINDS,
    TAGS,
    Detection,
    GenEval,
    Metadata,
    grade,
    image_row,
    images_table,
    metadata_of,
    read_metadata,
)
from hermesflow.evaluation.graders.geneval_detector import ColorClassifier, Detector
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from hermesflow.evaluation.metrics import GENEVAL_KINDS

RESULT_COLUMNS = ("prompt", "image", "kind", "caption", "accepted", "reason", "metadata", "details")
AGREEMENT_COLUMNS = ("kind", "images", "agreement", "ours", "theirs", "only_ours", "only_theirs")


_SHOWN = 10  # images on which two verdicts differ


def compare(own: GenEval, results: Path, images: Path | None = None, *, device: str = "cpu") -> str:
    """What the two sides have in common, as text: the rules alone and, with the images, everything.

    Args:
        own: names detector and CLIP.
        results: what evaluate_images.py wrote.
        images: the folder it was given.
        device: torch device.

    Raises:
        ConfigError: detector or CLIP cannot be read.
        DataError: results or images cannot be read, or are not about the same images.
        FetchError: a source cannot be had.
    """
    theirs = read_results(results)
    rules = regraded(theirs)
    parts = ["The rules alone, on their detections (prompts without a colour); every agreement must be 1:"]
    parts.append(_both(rules, theirs[theirs["kind"].isin(rules["kind"])]) if len(rules) else "all prompts name one")
    if images is not None:
        classifier = ColorClassifier(PretrainedClip(own.clip, device=device))
        ours = grade_folder(images, Detector(own.detector, device=device), classifier)
        parts += ["\nEverything: our detector, colours and rules on the same images:", _both(ours, theirs)]
    return "\n".join(parts)


def _both(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    text = agreement(ours, theirs).to_string(index=False, float_format="{:.4f}".format)
    apart = differing(ours, theirs)
    if apart.empty:
        return text
    told = apart.head(_SHOWN).to_string(index=False)
    return f"{text}\n{len(apart)} images with another verdict; the first of them:\n{told}"


def differing(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """The images of which one side alone accepts: prompt, image, kind, and what each side says is wrong.

    Args:
        ours: columns prompt, image, kind, accepted, reason.
        theirs: likewise, of the same images.
    """
    keys = ["prompt", "image", "kind"]
    both = ours[[*keys, "accepted", "reason"]].merge(
        theirs[[*keys, "accepted", "reason"]], on=keys, suffixes=("_ours", "_theirs")
    )
    columns = [*keys, "reason_ours", "reason_theirs"]
    return both[both["accepted_ours"] != both["accepted_theirs"]][columns].reset_index(drop=True)


def grade_folder(folder: Path, detector: Detector, classifier: ColorClassifier) -> pd.DataFrame:
    """Grade images that lie as the original wants them: `00012/metadata.jsonl` and `00012/samples/0003.png`.

    Args:
        folder: what evaluate_images.py is given.
        detector: finds objects.
        classifier: tells their colours.

    Returns:
        One row per image, in order of prompt and image: `geneval.TABLE_COLUMNS`.

    Raises:
        DataError: no images at all or of a prompt, or a prompt or image that cannot be read.
    """
    found = _images_of(folder)
    progress = Progress(sum(len(files) for *_, files in found), f"grade {folder}", "image")
    rows = []
    for number, metadata, files in found:
        for path in files:
            image = _read(path)
            colour_of = partial(classifier.colors, image)
            rows.append(image_row(number, int(path.stem), metadata, detector.detect(image), colour_of))
            progress.advance()
    return images_table(rows)


def _images_of(folder: Path) -> list[tuple[int, Metadata, list[Path]]]:
    found = []
    for place in sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()):
        (metadata, *more) = read_metadata(place / "metadata.jsonl")
        if more:
            raise DataError(f"{place / 'metadata.jsonl'}: holds several prompts. Keep the one of this folder.")
        files = sorted(path for path in (place / "samples").glob("*.png") if path.stem.isdigit())
        if not files:
            raise DataError(f"{place / 'samples'}: holds no images like 0000.png. Draw them, or remove {place}.")
        found.append((int(place.name), metadata, files))
    if not found:
        raise DataError(f"{folder}: holds no images like 00000/samples/0000.png. Name the folder of the images.")
    return found


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Draw the image anew.") from error


def read_results(path: Path) -> pd.DataFrame:
    """Read a results file of GenEval's evaluate_images.py, one JSON object per image.

    Args:
        path: results.jsonl; its file names end in `00012/samples/0003.png` (prompt 12, image 3).

    Returns:
        One row per image, in order of prompt and image: RESULT_COLUMNS; `metadata` and `details` are JSON texts.

    Raises:
        DataError: unreadable or empty, a line of another form, or two lines about one image.
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
    if not rows:
        raise DataError(f"{path}: holds no results. Run evaluate_images.py of the original repository again.")
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
