"""From files in their true formats, through drawing and grading by tiny models, to the cells of the tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.core.files import write_table, write_weights
from hermesflow.data.pairs import read_pairs
from hermesflow.evaluation.bootstrap import summarise
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.report.facts import benchmark_lines
from hermesflow.report.formatting import Table, to_markdown
from hermesflow.report.tables import all_tables
from hermesflow.stages.report import benchmark_folders
from tests.stages import test_stage_grade
from tests.support.report_world import PAPER_TABLES

graded = test_stage_grade.world


@pytest.fixture(scope="module")
def tables(graded) -> dict[str, Table]:
    config, layout, _ = graded
    config = replace(config, benchmarks=replace(config.benchmarks, understanding=None))  # that is lmms-eval's
    own = layout.checkpoint(0, "base") / "evaluation"
    rows = [("gap/self/understanding", "gap", "a", 1.0, 1.0), ("gap/self/generation", "gap", "a", 0.0, 1.0)]
    write_table(own / "units.parquet", pd.DataFrame(rows, columns=list(UNIT_COLUMNS)))
    write_weights(own / "features.safetensors", {name: torch.zeros(0, 1) for name in ("generated", "real")})
    benchmarks = {"base": {0: benchmark_folders(config, layout, 0, "base")}}
    summary = summarise({"base": {0: own}}, benchmarks, resamples=config.evaluation.bootstrap, confidence=0.95)
    made = all_tables(summary, config, PAPER_TABLES, benchmark_lines(benchmarks))
    return {table.name: table for table in made}


def test_generation(tables):
    """One of two prompts of one object is drawn well, none of the other kinds; the VQA judge says yes to everything."""
    row = tables["table2_generation"].values.set_index("model").loc["base"]
    assert row["single_object"] == 0.5 and row["counting"] == 0
    assert row["overall"] == pytest.approx(0.5 / 6, abs=1e-6)
    assert row["dpg"] == 100
    text = to_markdown(tables["table2_generation"])
    assert "- geneval: GenEval, 7 prompts x 4 images" in text and "- dpg: DPG-Bench, 2 prompts x 2 images" in text


def test_fidelity(tables):
    """The reference is the drawn images' own moments with one mean 3 away: 3^2. Random weights see all alike."""
    table = tables["table3_fidelity"]
    cells = table.cells.set_index("Model").loc["base"]
    assert cells["COCO-30K FID"] == "9.00 [9.00, 9.00]" and "[" in cells["CLIP score"]
    (line,) = (note for note in table.notes if note.startswith("coco: "))
    assert "inception" in line and "sha256" in line and "3 items; run seeds 0" in line


def test_gap(tables, graded):
    """The judge takes the first choice: generation is the share of questions whose first choice is right."""
    _, layout, _ = graded
    questions = [q for row in read_pairs(layout.data("gap")) for q in row["questions"]]
    first = np.mean([q["choices"][0] == q["answer"] for q in questions])
    rows = tables["table4_gap"].values.set_index("protocol")
    assert list(rows.index) == ["paper", "same-judge", "self"]
    assert rows.loc[["paper", "same-judge"], "generation"].tolist() == pytest.approx([first, first], abs=1e-6)
    assert rows.loc["self", "gap"] == 1
    (line,) = (note for note in tables["table4_gap"].notes if note.startswith("gap: "))
    assert "judge gpt-4o" in line and f"questions {len(questions)}" in line and "dollars 0." in line


def test_understanding_is_empty_and_says_why(tables):
    (note,) = (note for note in tables["table1_understanding"].notes if "not measured" in note)
    assert "`benchmarks.understanding` fills" in note
