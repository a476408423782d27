"""Stage `understand` with the real lmms-eval on a tiny checkpoint, from a local task to the benchmark's files."""

import json
from pathlib import Path

import pandas as pd
import pytest

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json, read_table
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.evaluation.lmms.answering import pixel_digest
from hermesflow.evaluation.lmms.results import figures_of

from . import world

pytestmark = pytest.mark.lmms


def test_a_column_by_hand(staged, small_world, capfd):
    """Flickr30k without Karpathy's file: one of three captions is its reference's copy, two share no word with it."""
    folder = staged.run("plain")
    units = pd.read_parquet(folder / "units.parquet")
    assert tuple(units.columns) == UNIT_COLUMNS
    assert figures_of(units) == pytest.approx({"flickr30k/full/cider": (10 + 0 + 0) / 3})
    rows = pd.read_parquet(folder / "rows.parquet")
    shown = [number for number, _ in small_world.captions]
    question = "Provide a one-sentence caption for the provided image."
    assert list(rows["answer"]) == [small_world.oracle.says(number, question, 64) for number in shown]
    assert [json.loads(text) for text in rows["target"]] == [captions for _, captions in small_world.captions]
    assert list(rows["doc_id"]) == [0, 1, 2] and set(rows["task"]) == {"flickr30k_test"}
    assert list(rows["image"]) == [pixel_digest(world.picture(number)) for number in shown]
    facts = read_json(folder / "facts.json")
    assert facts["scorers"] == {"lmms-eval": "0.7.3"} and facts["protocol"] == "lmms-eval's tasks flickr30k_test"
    assert facts["items"] == 3 and facts["questions"] == {"flickr30k_test": 3}
    assert read_json(folder / "values.json") == {}
    assert read_json(folder / "manifest.json")["config"]["tasks"] == ["flickr30k_test_local"]
    assert len(list((folder / "lmms").glob("*/*_results.json"))) == 1
    assert any(Path(staged.own.cache).iterdir())  # the data sets are where the config says
    progress = capfd.readouterr().err
    assert "lmms-eval: see the pictures of: 3/3 questions" in progress and "lmms-eval: answer: 3/3" in progress


def test_karpathys_split_is_there_where_its_file_is_named(flickr_folder, small_world):
    """Of three images the first is no test image, so the others' captions must go with the others' pictures."""
    units = pd.read_parquet(flickr_folder / "units.parquet")
    assert units.groupby("metric").size().to_dict() == {"flickr30k/full/cider": 3, "flickr30k/karpathy/cider": 2}
    rows = read_table(flickr_folder / "rows.parquet", ("task", "image", "target"))
    every = small_world.captions
    for task, captions in (("flickr30k_test", every), ("flickr30k_karpathy", every[1:])):
        own = rows[rows["task"] == task]
        assert list(own["image"]) == [pixel_digest(world.picture(number)) for number, _ in captions]
        assert [json.loads(text) for text in own["target"]] == [texts for _, texts in captions]


def test_what_lmms_eval_says_of_an_error_is_told(staged):
    staged.layout.checkpoint(0, "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"config\.json: not a readable JSON artifact"):
        staged.run("empty")
