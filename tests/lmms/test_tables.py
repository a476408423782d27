"""From the real command line's files of every column to the cells of Tables 1 and 5, worked out by hand."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from hermesflow.core.files import Layout, read_json, write_table, write_weights
from hermesflow.evaluation import bootstrap, evaluated
from hermesflow.evaluation.lmms.results import figures_of
from hermesflow.evaluation.lmms.summary import summarise
from hermesflow.evaluation.registry import lmms_benchmarks
from hermesflow.report import formatting
from hermesflow.report.facts import benchmark_lines
from hermesflow.report.tables import all_tables
from tests.support.report_world import PAPER_TABLES, showo

from .all_columns import NOBODY
from .world import SHORT

pytestmark = pytest.mark.lmms
BENCHMARKS = {one.name: tuple(one.tasks) for one in lmms_benchmarks()}
CELLS = {
    "POPE": 100 * (3 / 5 + 2 / 2 + 0 / 2) / 3,  # random, popular, adversarial
    "MME perception": 9 * (100 + 100) + (50 + 0),  # of `count` one question of two is answered rightly
    "MME cognition": 1 * (100 + 100) + 3 * (0 + 0),
    "Flickr30k CIDEr, all images": 100 * (10 + 0 + 0) / 3,  # a copy of the reference, two without a word of theirs
    "Flickr30k CIDEr, Karpathy 1K": 100 * (10 + 0) / 2,  # one of the two is no test image
    # 2 of 10 annotators agree: left out themselves 1 / 3, others 2 / 3; then 4 of 10: always 3 or more
    "VQAv2": 100 * ((2 * 1 / 3 + 8 * 2 / 3) / 10 + 1) / 2,
    "GQA": 100 * 1 / 2,
    "MMMU val": 100 * 1 / 2,  # the open question; the letter that the other wants is none of its options
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return Layout(tmp_path_factory.mktemp("tables") / "showo")


@pytest.fixture(scope="module")
def folders(both_runs, layout):
    """The folder of each column of base."""
    made = {column: layout.benchmark(0, "base", column) for column in BENCHMARKS}
    for column, tasks in BENCHMARKS.items():
        summarise(replace(both_runs, samples={task: both_runs.samples[task] for task in tasks}), made[column])
    return made


@pytest.fixture(scope="module")
def tables(folders, layout):
    """All tables of config/showo.yaml when base alone, and of it the columns of lmms-eval alone, are evaluated."""
    own = layout.checkpoint(0, "base") / "evaluation"
    rows = [(f"gap/self/{side}", "gap", "a", 1.0, 1.0) for side in ("understanding", "generation")]
    write_table(own / "units.parquet", pd.DataFrame(rows, columns=list(evaluated.UNIT_COLUMNS)))
    write_weights(own / "features.safetensors", {name: torch.zeros(0, 1) for name in ("generated", "real")})
    benchmarks = {"base": {0: list(folders.values())}}
    summary = bootstrap.summarise({"base": {0: own}}, benchmarks, resamples=50, confidence=0.95)
    made = all_tables(summary, showo(), PAPER_TABLES, benchmark_lines(benchmarks))
    return {table.name: table for table in made}


def test_files_of_a_column(folders, small_world):
    """Of GQA's two questions one is answered as the record has it, but for case and punctuation."""
    said = [small_world.oracle.says(key, f"What is g{key}?{SHORT}") for key in (1, 2)]
    units = pd.read_parquet(folders["gqa"] / "units.parquet")
    assert tuple(units.columns) == evaluated.UNIT_COLUMNS and figures_of(units) == {"gqa": 0.5}
    rows = pd.read_parquet(folders["gqa"] / "rows.parquet")
    assert dict(zip(rows["doc_id"], rows["answer"], strict=True)) == dict(enumerate(said))
    assert list(rows["target"]) == [said[0].upper() + "!", NOBODY] and set(rows["task"]) == {"gqa"}
    facts = read_json(folders["gqa"] / "facts.json")
    assert facts["scorers"] == {"lmms-eval": "0.7.3"} and facts["protocol"] == "lmms-eval's tasks gqa"
    assert facts["items"] == 2 and facts["questions"] == {"gqa": 2}
    assert read_json(folders["gqa"] / "values.json") == {}


def test_targets_are_right_answers_or_nothing(folders):
    rows = pd.read_parquet(folders["vqav2"] / "rows.parquet")
    assert list(rows["target"]) == ["", "", ""]  # samples do not hold what the annotators say
    rows = pd.read_parquet(folders["mmmu"] / "rows.parquet")
    assert rows["target"][0] == "Z"


@pytest.mark.parametrize("column", CELLS)
def test_cell_of_table_1(tables, column):
    text = tables["table1_understanding"].cells.set_index("Model").loc["base", column]
    assert text.startswith(f"{CELLS[column]:.1f} [")  # and then its interval


def test_every_measured_cell_of_table_1_has_an_expectation(tables):
    base = tables["table1_understanding"].cells.set_index("Model").loc["base"]
    filled = [column for column, text in base.items() if text != formatting.EMPTY]
    assert filled == list(CELLS)


def test_csv_has_the_plain_numbers(tables, tmp_path):
    formatting.write(tables["table1_understanding"], tmp_path)
    row = pd.read_csv(tmp_path / "table1_understanding.csv").set_index("model").loc["base"]
    names = ("pope", "mme", "mme_cognition", "flickr30k", "flickr30k_karpathy", "vqav2", "gqa", "mmmu")
    assert row[list(names)].tolist() == pytest.approx(list(CELLS.values()), abs=1e-5)
    assert row["mmmu_low"] < row["mmmu"] < row["mmmu_high"]


def test_table_5_shares_its_columns(tables):
    row = tables["table5_ablation"].cells.set_index("Checkpoint").loc["base"]
    assert row[["POPE", "MME perception", "MMMU val"]].tolist() == ["53.3", "1850.0", "50.0"]


@pytest.mark.parametrize(
    "line",
    [
        "pope: lmms-eval's tasks pope_adv, pope_pop, pope_random; by lmms-eval 0.7.3; 3 items; run seeds 0; "
        "questions: pope_adv 2, pope_pop 2, pope_random 5.",
        "flickr30k: lmms-eval's tasks flickr30k_karpathy, flickr30k_test; by lmms-eval 0.7.3; 3 items; run seeds 0; "
        "questions: flickr30k_karpathy 2, flickr30k_test 3.",
        "vqav2: lmms-eval's tasks vqav2_val; by lmms-eval 0.7.3; 2 items; run seeds 0; "
        "questions: vqav2_test 1, vqav2_val 2.",  # the test split makes no figure
        "gqa: lmms-eval's tasks gqa; by lmms-eval 0.7.3; 2 items; run seeds 0; questions: gqa 2.",
    ],
    ids=["pope", "flickr30k", "vqav2", "gqa"],
)
def test_notes_say_what_made_a_column(tables, line):
    assert line in tables["table1_understanding"].notes


def test_one_line_per_column_and_nothing_unexplained(tables):
    notes = tables["table1_understanding"].notes
    assert [sum(note.startswith(f"{column}: ") for note in notes) for column in BENCHMARKS] == [1] * len(BENCHMARKS)
    assert not [note for note in notes if "not measured" in note]
