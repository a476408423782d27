"""Prompts that the model cuts are counted for every split that images are drawn from."""

from dataclasses import replace

import pandas as pd
import pytest

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout, write_json, write_table
from hermesflow.data.pairs import write_pairs
from hermesflow.models.backbone import new_model
from hermesflow.stages.report import _data_note
from tests.support.report_world import ROOT
from tests.support.tiny_backbone import Tiny

SMOKE = load_config(ROOT / "config" / "smoke.yaml")
SPLITS = ("base", "pairs", "prompts", "gap")


def note_of(folder, settings, long_in):
    layout = Layout(folder)
    new_model(replace(SMOKE, language_model=settings), seed=0).save(layout.checkpoint(0, "base") / "model")
    for split in SPLITS:
        caption = "a red circle" if split != long_in else "two blue squares and a green cross"
        write_pairs(layout.data(split), [{"id": f"{split}-0", "image": None, "caption": caption, "questions": []}])
    records = {"read": 4, "drawn": 4, "set aside": 0, "not needed": 0}
    write_json(folder / "data" / "selection.json", {"records": records, "changes": {}})
    write_table(
        folder / "data" / "questions.csv",
        pd.DataFrame([["source", "kept", 4]], columns=["from", "outcome", "questions"]),
    )
    return _data_note(layout, 0)


@pytest.mark.parametrize("long_in", SPLITS)
def test_captions_that_are_cut_stand_under_the_records_set_aside(tmp_path, long_in):
    note = note_of(tmp_path, replace(SMOKE.language_model, max_text_tokens=8), long_in)
    assert note.endswith(f"cut where it draws from them: 1 in {long_in}.")


def test_what_is_cut_is_asked_of_the_backbone(tmp_path, monkeypatch):
    """Only Show-o's limit was known to the report."""
    settings = replace(SMOKE.language_model, family=Tiny.family)
    assert note_of(tmp_path, settings, "gap").endswith("cut where it draws from them: none.")
    monkeypatch.setattr(Tiny, "is_cut", lambda self, prompts: [len(row) > 4 for row in self.tokenize(prompts)])
    assert note_of(tmp_path, settings, "gap").endswith("cut where it draws from them: 1 in gap.")
