"""Homologous pairs on disk: the schema that every source of pairs fills.

A pair is an image, its caption and questions about it. Pairs are Hugging Face `datasets` rows kept in one parquet
file whose metadata carries the features; images stay encoded (PNG) until asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hermesflow.core.errors import DataError
from hermesflow.core.files import atomic
from hermesflow.data.images import open_image

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
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: missing, truncated or not parquet ({error}). Run stage data again.") from error
    try:
        table = table.select(list(SCHEMA)).cast(SCHEMA.arrow_schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise DataError(
            f"{path}: columns {table.column_names} are not those of pairs ({error}). Columns {list(SCHEMA)} are "
            "needed, with the types of hermesflow.data.pairs.SCHEMA; write the file with `write_pairs` there."
        ) from error
    return datasets.Dataset(table)


def images_of(dataset: datasets.Dataset) -> np.ndarray:
    """Decode the images of a dataset: (N, H, W, 3) uint8.

    Raises:
        DataError: an image cannot be decoded, or sizes differ.
    """
    rows = dataset.with_format("arrow").select_columns(["id", "image"])[:].to_pylist()
    images = []
    for row in rows:
        try:
            images.append(np.asarray(open_image((row["image"] or {}).get("bytes") or b"")))
        except DataError as error:
            raise DataError(f"pair {row['id']}: {error} Mend or remove the record.") from error
    if len({image.shape for image in images}) > 1:
        shapes = sorted({image.shape for image in images})
        raise DataError(f"images of one split have different sizes {shapes}; scale them to data.image_size first.")
    return np.stack(images) if images else np.zeros((0, 0, 0, 3), dtype=np.uint8)
