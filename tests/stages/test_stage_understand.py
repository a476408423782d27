from dataclasses import replace
from pathlib import Path

import pytest

from hermesflow.config.benchmarks import COLUMNS, Benchmarks, Understanding
from hermesflow.config.load import load_config
from hermesflow.core.errors import ConfigError, DataError
from hermesflow.core.files import Layout
from hermesflow.evaluation.lmms.karpathy import SPLITS
from hermesflow.evaluation.registry import lmms_benchmarks
from hermesflow.stages import understand

CONFIG = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
OWN = Understanding(batch_size=2, python="nowhere/python")


def run(own, benchmark):
    config = replace(CONFIG, benchmarks=Benchmarks(understanding=own))
    understand.run(config, Layout(Path("results")), seed=0, checkpoint="base", benchmark=benchmark)


def test_every_column_has_its_tasks():
    assert set(COLUMNS) == {one.name for one in lmms_benchmarks() if one.tasks}
    assert understand.tasks_of(OWN, "pope") == ["pope_random", "pope_pop", "pope_adv"]


def test_local_tasks_take_the_place_of_the_shipped_ones():
    assert understand.tasks_of(replace(OWN, tasks="tasks"), "mme") == ["mme_local"]


def test_karpathys_split_needs_its_file(tmp_path):
    assert understand.tasks_of(OWN, "flickr30k") == ["flickr30k_test"]
    (tmp_path / "splits.json").write_text("{}")
    own = replace(OWN, karpathy=str(tmp_path / "splits.json"))
    assert understand.tasks_of(own, "flickr30k") == ["flickr30k_test", "flickr30k_karpathy"]
    assert understand.environment_of(own, "flickr30k")[SPLITS] == str(tmp_path / "splits.json")
    assert SPLITS not in understand.environment_of(own, "gqa")


def test_vqav2s_test_split_can_be_left_out():
    assert understand.tasks_of(OWN, "vqav2") == ["vqav2_val", "vqav2_test"]
    assert understand.tasks_of(replace(OWN, vqav2_submission=False), "vqav2") == ["vqav2_val"]
    assert understand.tasks_of(replace(OWN, vqav2_submission=False, tasks="tasks"), "gqa") == ["gqa_local"]


def test_missing_splits_are_named_with_their_key_and_origin():
    with pytest.raises(DataError, match=r"nowhere\.json.*benchmarks\.understanding\.karpathy.*caption_datasets\.zip"):
        run(replace(OWN, karpathy="nowhere.json"), "flickr30k")


def test_data_sets_lie_where_the_config_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "/elsewhere")
    assert understand.environment_of(OWN, "gqa")["HF_HOME"] == "/elsewhere"
    assert understand.environment_of(replace(OWN, cache="here"), "gqa")["HF_HOME"] == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("variables", "token"),
    [
        ({}, "/home/me/.cache/huggingface/token"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/token"),
        ({"HF_HOME": "/hub"}, "/hub/token"),
        ({"HF_HOME": "/hub", "HF_TOKEN_PATH": "/mine"}, "/mine"),
    ],
)
def test_a_cache_elsewhere_does_not_hide_the_token_of_hf_auth_login(tmp_path, monkeypatch, variables, token):
    for name in ("HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    assert understand.environment_of(replace(OWN, cache=str(tmp_path)), "gqa")["HF_TOKEN_PATH"] == token
    (tmp_path / "token").touch()
    assert understand.environment_of(replace(OWN, cache=str(tmp_path)), "gqa").get("HF_TOKEN_PATH") == (
        variables.get("HF_TOKEN_PATH")  # one that was left there counts
    )


def test_without_the_environment_it_says_how_to_make_it():
    with pytest.raises(ConfigError, match=r"nowhere/python.*make lmms"):
        run(OWN, "gqa")


def test_a_column_that_the_config_leaves_out_is_refused():
    for own in (None, replace(OWN, columns=("mme",))):
        with pytest.raises(ConfigError, match=r"gqa: is not in benchmarks\.understanding\.columns"):
            run(own, "gqa")
