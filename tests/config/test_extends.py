"""A config that holds its differences to another one alone."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from hermesflow.cli.dvc import dvc_files
from hermesflow.config.load import config_files, load_config
from hermesflow.core.errors import ConfigError

SMOKE = "config/smoke.yaml"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "smoke.yaml").write_text(Path(SMOKE).read_text())
    return tmp_path


def written(folder, name="other", **differences):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke.yaml", "name": name, **differences}))
    return path


def test_without_differences_it_is_the_other_config(folder):
    assert load_config(written(folder)) == dataclasses.replace(load_config(SMOKE), name="other")


def test_mappings_are_merged_and_lists_replaced(folder):
    smoke = load_config(SMOKE)
    config = load_config(
        written(
            folder,
            seeds=[4],
            training={"beta": 0.5, "max_grad_norm": None},
            sampling={"captions": {"decodings": [{"top_k": 1, "temperature": 1.0}]}},
        )
    )
    assert config.seeds == (4,)
    assert config.training == dataclasses.replace(smoke.training, beta=0.5, max_grad_norm=None)
    assert len(config.sampling.captions.decodings) == 1
    assert config.sampling.captions.max_new_tokens == smoke.sampling.captions.max_new_tokens
    assert config.sampling.images == smoke.sampling.images


def test_checkpoints_are_added_and_taken_away(folder):
    smoke = load_config(SMOKE)
    gone = [name for name in smoke.checkpoints if name != "pair-1"]
    changed = {"more": {"parent": "base", "objective": "pair", "beta": 0.7}, **dict.fromkeys(gone)}
    config = load_config(written(folder, checkpoints=changed))
    assert set(config.checkpoints) == {"pair-1", "more"}
    assert config.checkpoints["pair-1"] == smoke.checkpoints["pair-1"]


def test_what_one_file_takes_away_the_next_may_make_anew(folder):
    """The entry of the first file is not under it again."""
    written(folder, "parent", checkpoints={"pair-1": {"parent": "base", "objective": "pair", "beta": 0.7}})
    middle = {"extends": "parent.yaml", "checkpoints": dict.fromkeys(load_config(SMOKE).checkpoints)}
    written(folder, "middle", **middle)
    child = {"extends": "middle.yaml", "checkpoints": {"pair-1": {"parent": "base", "objective": "generation"}}}
    entry = load_config(written(folder, "child", **child)).checkpoints["pair-1"]
    assert (entry.objective, entry.beta) == ("generation", None)


def test_a_source_of_its_own_takes_nothing_over(folder):
    """Neither commit nor checksums of another repository, nor its files."""
    sha, commit = "0" * 64, "1" * 40
    parent = {"repo": "a/one", "revision": commit, "files": {"tokenizer.json": sha, "other.json": sha}}
    written(folder, "parent", language_model={"text_tokenizer": parent})
    pins = {"extends": "parent.yaml", "language_model": {"text_tokenizer": {"revision": "2" * 40}}}
    for own, expected in (
        ({"repo": "b/two", "files": {"tokenizer.json": None}}, ("b/two", None, {"tokenizer.json": None})),
        ({"folder": "here", "files": {"tokenizer.json": sha}}, (None, None, {"tokenizer.json": sha})),
        (pins["language_model"]["text_tokenizer"], ("a/one", "2" * 40, parent["files"])),
    ):
        config = load_config(written(folder, **{**pins, "language_model": {"text_tokenizer": own}}))
        source = config.language_model.text_tokenizer
        assert (source.repo, source.revision, source.files) == expected


def test_other_data_and_another_encoder_take_nothing_over(folder):
    data = {"source": "folder", "path": "pictures", "seed": 1, "image_size": 48, "base_pairs": 9, "pairs": 9}
    smoke = load_config(SMOKE)
    config = load_config(
        written(
            folder,
            data={**data, "gap_pairs": 9},
            scoring={"encoder": {"source": "elsewhere", "pooling": "cls"}, "agreement_pairs": 0},
            language_model={"text_tokenizer": "trained"},
        )
    )
    assert config.data.path == "pictures" and config.data.seed == 1
    assert (config.scoring.encoder.source, config.scoring.encoder.sha256) == ("elsewhere", None)
    assert config.scoring.vqa_method == smoke.scoring.vqa_method


def test_chains_of_files(folder):
    parent = written(folder, "parent", training={"beta": 0.5, "steps": 3})
    (folder / "deep").mkdir()
    child = folder / "deep" / "child.yaml"
    child.write_text("extends: ../parent.yaml\nname: child\ntraining: {steps: 4}\n")
    config = load_config(child)
    assert (config.name, config.training.beta, config.training.steps) == ("child", 0.5, 4)
    assert [path.resolve() for path in config_files(child)] == [child, parent, folder / "smoke.yaml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: nobody.yaml\nname: a\n", ["nobody.yaml", "cannot be read"]),
        ("extends: [smoke.yaml]\nname: a\n", ["extends", "file's name"]),
        ("extends: smoke.yaml\n", ["`name` is required", "smoke.yaml"]),
        ("extends: a.yaml\nname: a\n", ["extends: a.yaml", "circle"]),
        ("extends: smoke.yaml\nname: a\ntraining: {bata: 1}\n", ["unknown key `training.bata`"]),
        ("extends: smoke.yaml\nname: a\ntraining:\n", ["`training`"]),
    ],
)
def test_errors_name_file_and_key(folder, text, words):
    path = folder / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert all(word in str(error.value) for word in ["a.yaml", *words])


def test_dvc_watches_all_of_its_files(tmp_path, monkeypatch):
    """DVC computes digests again when a key of the extended file changes."""
    path = tmp_path / "other.yaml"
    smoke = (tmp_path / "smoke.yaml").absolute()
    smoke.write_text(Path(SMOKE).read_text())
    path.write_text(f"extends: {smoke}\nname: other\n")
    monkeypatch.setattr("hermesflow.cli.dvc.jobs_of", lambda _: [])  # listing them takes a Snakemake
    (text,) = dvc_files(path).values()
    assert yaml.safe_load(text)["stages"]["digests"]["params"] == [{str(path): None}, {str(smoke): None}]
