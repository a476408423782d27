"""Files in lmms-eval's form, written here, as they are read."""

import json

import pandas as pd
import pytest

from hermesflow.core.errors import ArtifactError
from hermesflow.evaluation.lmms import results
from hermesflow.evaluation.lmms.run import read_run

ANSWERS = ["red\u2028car", "a\x85b", "green\u2029", "blue"]
"""Ends of lines that lmms-eval writes as they are (`ensure_ascii=False`)."""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    samples = [
        {"doc_id": i, "target": "x", "filtered_resps": said, "exact_match": i % 2, "input": "?", "doc_hash": "0"}
        for i, said in enumerate(ANSWERS)
    ]
    (tmp_path / "model" / "1_samples_gqa.jsonl").write_text(
        "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8"
    )
    figures = {"results": {"gqa": {"exact_match,none": 0.5}}}
    (tmp_path / "model" / "1_results.json").write_text(json.dumps(figures))
    rows = [("gqa", i, f"p{i}") for i in range(len(ANSWERS))]
    pd.DataFrame(rows, columns=["task", "doc_id", "image"]).to_parquet(tmp_path / "images.parquet")
    return tmp_path


def test_an_answer_may_hold_other_ends_of_lines(folder):
    run = read_run(folder)
    assert [sample["filtered_resps"] for sample in run.samples["gqa"]] == ANSWERS
    assert results.figures_of(results.run_units(run)) == {"gqa": 0.5}  # records 1 and 3 of four


def test_what_nothing_is_made_of_is_not_kept(folder):
    assert set(read_run(folder).samples["gqa"][0]) == {"doc_id", "target", "filtered_resps", "exact_match"}


@pytest.mark.parametrize("text", ["{", "3"])
def test_another_line_is_told_by_its_number(folder, text):
    path = folder / "model" / "1_samples_gqa.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + text + "\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"1_samples_gqa\.jsonl, line 5: not a sample"):
        read_run(folder)
