"""Stage `data`: every split of the micro world, and pairs from other sources."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, read_json
from hermesflow.data.microworld.captions import GENEVAL_KINDS
from hermesflow.data.microworld.world import make_pairs
from hermesflow.data.pairs import read_pairs, write_pairs
from hermesflow.stages import data as stage


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("config/smoke.yaml")


@pytest.fixture(scope="module")
def made(config, tmp_path_factory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("results"))
    stage.run(config, layout)
    return layout


def from_files(config: Config, folder: Path | None) -> Config:
    data = dataclasses.replace(config.data, source="parquet", path=None if folder is None else str(folder))
    return dataclasses.replace(config, data=data)


@pytest.fixture
def source(config, tmp_path) -> dict[str, list[dict]]:
    rows = {split: list(make_pairs(split, 14, config=config.data)) for split in stage.SPLITS}
    return rows


def write_source(folder: Path, rows: dict[str, list[dict]]) -> None:
    for split, own in rows.items():
        write_pairs(folder / f"{split}.parquet", own)


def test_every_split_has_its_size(config, made):
    sizes = {split: len(read_pairs(made.data(split))) for split in stage.SPLITS}
    assert sizes == {"base": 600, "pairs": 40, "gap": 24, "understanding": 24, "prompts": 6 * 4 + 6}
    kinds = Counter(read_pairs(made.data("prompts"))["kind"])
    assert kinds == {**dict.fromkeys(GENEVAL_KINDS, 4), "dense": 6}


def test_ids_are_unique_over_all_splits_and_no_scene_is_rejected(made):
    ids = [id_ for split in stage.SPLITS for id_ in read_pairs(made.data(split))["id"]]
    assert len(ids) == len(set(ids))
    rejected = pd.read_csv(made.root / "data" / "rejected.csv")
    assert rejected.empty and list(rejected.columns) == ["split", "id", "record", "reason"]


def test_the_same_config_gives_the_same_bytes(config, made, tmp_path):
    again = Layout(tmp_path)
    stage.run(config, again)
    for path in sorted((made.root / "data").iterdir()):
        assert path.read_bytes() == (again.root / "data" / path.name).read_bytes(), path.name


def test_manifest_says_what_the_data_was_made_from(config, made):
    manifest = read_json(made.root / "data" / "manifest.json")
    assert manifest["seed"] == config.data.seed and manifest["config"]["data"]["base_pairs"] == 600


def test_bad_records_of_a_file_are_set_aside_and_the_rest_is_used(config, source, tmp_path):
    source["base"][1]["caption"] = ""
    source["base"][2]["image"] = {"bytes": b"broken", "path": None}
    source["pairs"][5]["questions"] = []
    source["pairs"][6]["id"] = source["pairs"][0]["id"]
    write_source(tmp_path, source)
    layout = Layout(tmp_path / "results")
    stage.run(from_files(config, tmp_path), layout)
    rejected = pd.read_csv(layout.root / "data" / "rejected.csv")
    assert list(zip(rejected["split"], rejected["record"], strict=True)) == [
        ("base", 1),
        ("base", 2),
        ("pairs", 5),
        ("pairs", 6),
    ]
    for reason, expected in zip(
        rejected["reason"], ("empty caption", "corrupt image", "no questions", "duplicate id"), strict=True
    ):
        assert expected in reason
    assert len(read_pairs(layout.data("base"))) == 12 and len(read_pairs(layout.data("pairs"))) == 12


def test_a_file_without_a_usable_record_is_an_error(config, source, tmp_path):
    for row in source["gap"]:
        row["caption"] = ""
    write_source(tmp_path, source)
    with pytest.raises(DataError, match=r"gap\.parquet: all 14 records were set aside \(empty caption\)"):
        stage.run(from_files(config, tmp_path), Layout(tmp_path / "results"))


def test_a_missing_file_and_a_missing_path_are_errors(config, source, tmp_path):
    write_source(tmp_path, {"base": source["base"]})
    with pytest.raises(DataError, match=r"pairs\.parquet"):
        stage.run(from_files(config, tmp_path), Layout(tmp_path / "results"))
    with pytest.raises(DataError, match=r"data\.path"):
        stage.run(from_files(config, None), Layout(tmp_path / "results"))
