"""Homologous pairs on disk: the schema that every source of pairs fills, and what is refused.

A pair is an image, its caption and questions about it. Pairs are Hugging Face `datasets` rows kept in one parquet
file whose metadata carries the features; images stay encoded (PNG) until asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hermesflow.core.errors import DataError
from hermesflow.core.files import atomic

SCHEMA = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "kind": datasets.Value("string"),
        "questions": datasets.List(
            {
                "question": datasets.Value("string"),
                "choices": datasets.List(datasets.Value("string")),
                "answer": datasets.Value("string"),
                "kind": datasets.Value("string"),
            }
        ),
    }
)
REJECTED_COLUMNS = ("id", "record", "reason")
GROUP_BYTES = 2**28
"""A row group is closed when its images reach this: less memory, and Arrow takes at most 2 GB per column chunk."""


def write_pairs(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of `SCHEMA` (image as {"bytes", "path"}) to one parquet file, atomically; same rows, same bytes."""
    with atomic(path) as temporary, pq.ParquetWriter(temporary, SCHEMA.arrow_schema, compression="zstd") as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            group.append(dict(row))
            size += len((row["image"] or {}).get("bytes") or b"")
            if size >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA.arrow_schema))
                group, size = [], 0
        writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA.arrow_schema))


def read_pairs(path: Path) -> datasets.Dataset:
    """Read one parquet file of pairs into memory (no cache folder).

    Returns:
        Dataset with `SCHEMA` features, rows in file order.

    Raises:
        DataError: missing, truncated, not parquet, or of another schema.
    """
    table = _read_table(path)
    try:
        table = table.select(list(SCHEMA)).cast(SCHEMA.arrow_schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise DataError(
            f"{path}: columns {table.column_names} are not those of pairs ({error}). Columns {list(SCHEMA)} are "
            "needed, with the types of hermesflow.data.pairs.SCHEMA; write the file with `write_pairs` there."
        ) from error
    return datasets.Dataset(table)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Raw rows of a parquet file for `validate`: nothing but the columns is checked, images stay encoded.

    Raises:
        DataError: as `read_pairs`.
    """
    return read_pairs(path).with_format("arrow")[:].to_pylist()


def images_of(dataset: datasets.Dataset) -> np.ndarray:
    """Decode the images of a dataset: (N, H, W, 3) uint8.

    Raises:
        DataError: an image cannot be decoded, or sizes differ.
    """
    rows = dataset.with_format("arrow").select_columns(["id", "image"])[:].to_pylist()
    images = []
    for row in rows:
        try:
            images.append(decode_image(row["image"]))
        except DataError as error:
            raise DataError(f"pair {row['id']}: {error} Mend or remove the record.") from error
    if len({image.shape for image in images}) > 1:
        shapes = sorted({image.shape for image in images})
        raise DataError(f"images of one split have different sizes {shapes}; scale them to data.image_size first.")
    return np.stack(images) if images else np.zeros((0, 0, 0, 3), dtype=np.uint8)


def decode_image(image: Mapping[str, Any] | None) -> np.ndarray:
    """Decode {"bytes", "path"} to (H, W, 3) uint8.

    Raises:
        DataError: no bytes, truncated, or not an image.
    """
    encoded = (image or {}).get("bytes")
    if not encoded:
        raise DataError("the image is empty.")
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            return np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be decoded ({type(error).__name__}).") from error


def validate(
    rows: Sequence[Mapping[str, Any]], *, image_size: int | None = None
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Set bad records aside.

    Args:
        rows: rows of `SCHEMA`, images encoded.
        image_size: expected pixels per side; None accepts any.

    Returns:
        Accepted rows in order, and a table [id, record (position in `rows`), reason] of the others. Of records
        with the same id the first is kept if it is good itself.
    """
    accepted: list[dict[str, Any]] = []
    rejected: list[tuple[str, int, str]] = []
    seen: set[str] = set()
    for record, row in enumerate(rows):
        reason = _fault(row, seen, image_size)
        if reason is None:
            seen.add(row["id"])
            accepted.append(dict(row))
        else:
            rejected.append((str(row.get("id") or ""), record, reason))
    return accepted, pd.DataFrame(rejected, columns=list(REJECTED_COLUMNS))


def _fault(row: Mapping[str, Any], seen: set[str], image_size: int | None) -> str | None:
    if not (row.get("id") or "").strip():
        return "empty id"
    if row["id"] in seen:
        return "duplicate id"
    if not (row.get("caption") or "").strip():
        return "empty caption"
    return _question_fault(row.get("questions")) or _image_fault(row.get("image"), image_size)


def _question_fault(questions: Sequence[Mapping[str, Any]] | None) -> str | None:
    if not questions:
        return "no questions"
    for number, question in enumerate(questions, start=1):
        if not (question["question"] or "").strip():
            return f"question {number}: empty"
        if question["answer"] not in (question["choices"] or ()):
            return f"question {number}: answer not among the choices"
    return None


def _image_fault(image: Mapping[str, Any] | None, image_size: int | None) -> str | None:
    try:
        height, width, _ = decode_image(image).shape
    except DataError as error:
        return f"corrupt image: {error}"
    if image_size is not None and (height, width) != (image_size, image_size):
        return f"image is {width} x {height} pixels, not {image_size} x {image_size}"
    return None


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: missing, truncated or not parquet ({error}). Restore the file, or let `data.path` name the "
            "folder that holds it."
        ) from error
