"""The schema of pairs on disk."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hermesflow.config.load import load_config
from hermesflow.config.sections import Data
from hermesflow.core.errors import DataError
from hermesflow.data import pairs
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import SCHEMA, images_of, read_pairs, write_pairs
from tests.support.pair_rows import read_rows


@pytest.fixture(scope="module")
def config() -> Data:
    return load_config("config/micro.yaml").data


@pytest.fixture
def rows(config) -> list[dict]:
    return list(WORLD.make_pairs("gap", 7, config=config))


def test_written_pairs_come_back_as_a_dataset_with_the_schema(rows, tmp_path):
    write_pairs(tmp_path / "gap.parquet", rows)
    dataset = read_pairs(tmp_path / "gap.parquet")
    assert isinstance(dataset, datasets.Dataset) and dataset.features == SCHEMA
    assert dataset["id"][:] == [row["id"] for row in rows]
    assert dataset[3]["questions"] == rows[3]["questions"]
    assert read_rows(tmp_path / "gap.parquet") == rows
    assert isinstance(dataset[0]["image"], Image.Image)


def test_the_datasets_library_reads_the_file_by_itself(rows, tmp_path):
    write_pairs(tmp_path / "gap.parquet", rows)
    dataset = datasets.Dataset.from_parquet(str(tmp_path / "gap.parquet"), cache_dir=str(tmp_path / "cache"))
    assert dataset.features == SCHEMA and dataset[0]["caption"] == rows[0]["caption"]


def test_same_rows_give_the_same_bytes(rows, tmp_path):
    for name in ("a", "b"):
        write_pairs(tmp_path / f"{name}.parquet", rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_large_splits_are_written_in_several_row_groups(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "GROUP_BYTES", len(rows[0]["image"]["bytes"]) * 2)
    write_pairs(tmp_path / "gap.parquet", rows)
    assert pq.ParquetFile(tmp_path / "gap.parquet").num_row_groups > 2
    assert read_rows(tmp_path / "gap.parquet") == rows
    assert images_of(read_pairs(tmp_path / "gap.parquet")).shape == (7, 48, 48, 3)


def test_images_of_decodes_what_was_drawn(rows, tmp_path):
    write_pairs(tmp_path / "gap.parquet", rows)
    images = images_of(read_pairs(tmp_path / "gap.parquet"))
    assert images.shape == (7, 48, 48, 3) and images.dtype == np.uint8
    expected = np.asarray(Image.open(io.BytesIO(rows[2]["image"]["bytes"])))
    np.testing.assert_array_equal(images[2], expected)


def test_images_of_names_the_record_that_cannot_be_decoded(rows, tmp_path):
    rows[4]["image"]["bytes"] = b"not an image"
    write_pairs(tmp_path / "gap.parquet", rows)
    with pytest.raises(DataError, match=rows[4]["id"]):
        images_of(read_pairs(tmp_path / "gap.parquet"))


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut short"])
def test_an_unreadable_file_is_one_paragraph_with_its_name(tmp_path, content):
    path = tmp_path / "base.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"base\.parquet") as error:
        read_pairs(path)
    assert "\n\n" not in str(error.value) and "stage data" in str(error.value)


def test_a_truncated_file_is_an_error(rows, tmp_path):
    path = tmp_path / "base.parquet"
    write_pairs(path, rows)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"base\.parquet"):
        read_pairs(path)


def test_a_table_of_another_schema_is_an_error(tmp_path):
    pd.DataFrame({"id": ["a"], "text": ["b"]}).to_parquet(tmp_path / "base.parquet")
    with pytest.raises(DataError, match="columns"):
        read_pairs(tmp_path / "base.parquet")
