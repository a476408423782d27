"""Stage `data`: every split of the micro world."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import pytest

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.files import Layout, read_json
from hermesflow.data.pairs import read_pairs
from hermesflow.data.worlds.language import GENEVAL_KINDS
from hermesflow.stages import data as stage


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("config/smoke.yaml")


@pytest.fixture(scope="module")
def made(config, tmp_path_factory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("results"))
    stage.run(config, layout)
    return layout


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
