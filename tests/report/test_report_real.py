"""Tables, notes, answer and figures where the images are real ones, with and without real benchmarks."""

from __future__ import annotations

import pandas as pd
import pytest

from hermesflow.report import figures, formatting
from hermesflow.report.answer import answer
from hermesflow.report.formatting import EMPTY, Table
from hermesflow.report.lookup import Figures
from hermesflow.report.tables import all_tables
from tests.support.report_world import PAPER_TABLES, own_metrics_of, real_metrics_of, real_summary, showo

LINES = {name: f"{name}: by judge x@1; 3 items; run seeds 0." for name in ("pope", "mme", "dpg", "coco", "gap")}


@pytest.fixture(scope="module")
def full() -> dict[str, Table]:
    return {table.name: table for table in all_tables(real_summary(), showo(), PAPER_TABLES, LINES)}


@pytest.fixture(scope="module")
def own() -> dict[str, Table]:
    return {table.name: table for table in all_tables(real_summary(own_metrics_of), showo(), PAPER_TABLES)}


def test_understanding_comes_in_the_units_of_the_paper(full):
    base = full["table1_understanding"].cells.set_index("Model").loc["base"]
    assert base["POPE"] == "80.0 [78.0, 82.0]"  # 100 x (0.52 + 0.28)
    assert base["MME perception"].startswith("1040.0") and base["MME cognition"].startswith("250.0")
    assert base["Flickr30k CIDEr, all images"].startswith("67.6")
    assert base["Flickr30k CIDEr, Karpathy 1K"].startswith("65.0")
    assert base["VQAv2"].startswith("72.0") and base["MMMU val"].startswith("27.4")
    assert base["VQA, held-out pairs"].startswith("52.0")


def test_base_as_measured_and_the_paper_s_show_o_both_stand(full):
    table = full["table1_understanding"].values.set_index("model")
    assert list(table.index[:2]) == ["base", "pair-3"]
    assert table.loc["base", "mme"] == pytest.approx(1040) and table.loc["base", "source"] == "measured here"
    assert table.loc["Show-o", "mme"] == 1232.9 and table.loc["Show-o", "source"] == "paper, camera-ready"
    assert (table.loc["Show-o", "flickr30k"], table.loc["Show-o", "vqav2"]) == (67.6, 74.7)
    assert table.loc["Show-o", ["mme_cognition", "flickr30k_karpathy", "cider", "vqa"]].isna().all()


def test_generation_has_the_kinds_and_dpg(full):
    row = full["table2_generation"].values.set_index("model").loc["pair-3"]
    assert row["single_object"] == pytest.approx(0.50) and row["two_objects"] == pytest.approx(0.40)
    assert row["dpg"] == pytest.approx(40.0)  # 100 x (0.50 - 0.1)


def test_frechet_distance_says_what_its_interval_resamples(full):
    table = full["table3_fidelity"]
    cells = table.cells.set_index("Model").loc["pair-3"]
    assert cells["COCO-30K FID"] == "21.20 [21.18, 21.22]"  # 26.2 - 10 x 0.50
    assert cells["CLIP score"] == "30.60 [30.58, 30.62]"
    assert any("FID's intervals resample drawn images" in note for note in table.notes)


def test_gap_is_told_by_all_three_protocols(full):
    table = full["table4_gap"].values.set_index(["checkpoint", "protocol"])
    assert table.loc[("pair-3", "paper"), "gap"] == pytest.approx(0.54 + 0.01 - 0.50)
    assert table.loc[("pair-3", "same-judge"), "gap"] == pytest.approx(0.54 - 0.50)
    assert table.loc[("pair-3", "self"), "gap"] == pytest.approx(0.54 - 0.59)  # 2 x 0.50 - 0.41
    assert table.loc[("pair-3", "same-judge"), "delta_gap"] == pytest.approx(0.04 - 0.09)
    note = full["table4_gap"].notes[0]
    assert all(f"`{protocol}`:" in note for protocol in ("paper", "same-judge", "self")) and "need a judge" not in note


def test_ablation_has_changes_of_benchmarks_and_of_every_gap(full):
    cells = full["table5_ablation"].cells.set_index("Checkpoint").loc["pair-1"]
    assert cells["POPE"] == "81.0 (+1.0 [-1.0, +3.0])"
    assert cells["GenEval"] == "0.070 (+0.040 [+0.020, +0.060])"
    assert cells["Gap, same judge"] == "0.060 (-0.030 [-0.050, -0.010])"
    assert cells["Gap, own answers"] == "0.000 (-0.070 [-0.090, -0.050])"
    assert full["table5_ablation"].quoted.set_index("Checkpoint").loc["as pair-1", "GenEval"] == "0.68"


@pytest.mark.parametrize(
    ("table", "benchmarks"),
    [
        ("table1_understanding", {"pope", "mme"}),
        ("table2_generation", {"dpg"}),
        ("table3_fidelity", {"coco"}),
        ("table4_gap", {"gap"}),
        ("table5_ablation", {"pope", "mme", "dpg", "gap"}),
    ],
)
def test_every_table_says_what_made_its_own_benchmarks_and_no_others(full, table, benchmarks):
    assert {name for name, line in LINES.items() if line in full[table].notes} == benchmarks


def test_nothing_measured_leaves_nothing_unexplained(full):
    assert not [note for table in full.values() for note in table.notes if "not measured" in note]


@pytest.mark.parametrize(
    ("table", "section", "column"),
    [
        ("table1_understanding", "benchmarks.understanding", "POPE"),
        ("table2_generation", "benchmarks.geneval", "Counting"),
        ("table2_generation", "benchmarks.dpg", "DPG"),
        ("table3_fidelity", "benchmarks.coco", "CLIP score"),
        ("table5_ablation", "benchmarks.gap", "Gap, same judge"),
    ],
)
def test_an_empty_column_names_the_section_that_fills_it(own, table, section, column):
    title = "Checkpoint" if table == "table5_ablation" else "Model"
    assert own[table].cells.set_index(title).loc["base", column] == EMPTY
    (note,) = (note for note in own[table].notes if "not measured" in note)
    assert f'"{column}"' in note.split(f"`{section}` fills ")[1].split(";")[0]


def test_without_a_judge_the_gap_says_what_it_lacks(own):
    table = own["table4_gap"]
    assert set(table.values["protocol"]) == {"self"}
    assert "`paper` and `same-judge` need a judge: section `benchmarks.gap`" in table.notes[0]


def test_a_part_of_the_benchmarks_fills_its_columns_alone():
    def metrics(*sides: float) -> dict[str, float]:
        keep = {name: value for name, value in real_metrics_of(*sides).items() if name.startswith("geneval/")}
        return own_metrics_of(*sides) | keep

    tables = {table.name: table for table in all_tables(real_summary(metrics), showo(), PAPER_TABLES)}
    cells = tables["table2_generation"].cells.set_index("Model").loc["base"]
    assert cells["Counting"] != EMPTY and cells["DPG"] == EMPTY
    (note,) = (note for note in tables["table2_generation"].notes if "not measured" in note)
    assert "`benchmarks.dpg`" in note and "geneval" not in note
    text = answer(real_summary(metrics), showo())
    assert "GenEval overall +0.040" in text and "questions on real images +0.010" in text and "POPE" not in text


def test_answer_has_every_protocol_and_warns_of_the_judge():
    text = answer(real_summary(half_width=0.005), showo())
    assert text.count("**Claim: the gap narrowed. Yes.**") == 3
    assert "POPE accuracy +0.010" in text and "GenEval overall +0.040" in text
    assert "The judge of real and generated images is a model too" in text and "micro world" not in text


def test_answer_without_a_judge_names_what_would_be_one():
    text = answer(real_summary(own_metrics_of, half_width=0.005), showo())
    assert text.count("**Claim: the gap narrowed. Yes.**") == 1
    assert "The gap has no judge but the model itself" in text and "`benchmarks.gap`" in text


def test_three_protocols_that_disagree_are_not_called_two():
    summary = real_summary(half_width=0.005)
    row = (summary["checkpoint"] == "pair-3") & (summary["metric"] == "gap/self/gap")
    summary.loc[row, ["delta", "delta_low", "delta_high"]] = [0.1, 0.09, 0.11]
    assert "- The protocols disagree on: the gap narrowed." in answer(summary, showo())


@pytest.mark.parametrize(("metrics", "panels"), [(real_metrics_of, 3), (own_metrics_of, 1)], ids=["judged", "own"])
def test_gap_figure_has_a_panel_per_protocol_and_the_paper_s(metrics, panels):
    quoted = pd.read_csv(PAPER_TABLES / "table4_gap.csv")
    axes = figures.gap_figure(Figures(real_summary(metrics)), ("base", "pair-3"), quoted).axes
    assert len(axes) == panels + 1
    assert [bar.get_height() for bar in axes[panels - 1].patches] == pytest.approx([0.52, 0.54, 0.45, 0.59, 0.3, 0.3])


@pytest.mark.parametrize(
    ("metrics", "labels", "changes"),
    [
        (real_metrics_of, ["questions on generated images", "GenEval"], [0.04, 0.05]),
        (own_metrics_of, ["questions on generated images"], [0.08, 0.10]),
    ],
    ids=["judged", "own"],
)
def test_candidates_figure_is_by_the_same_judge_where_there_is_one(metrics, labels, changes):
    axes = figures.candidates_figure(Figures(real_summary(metrics)), {2: "pair-1", 16: "pair-2"}).axes[1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
    assert axes.containers[0].lines[0].get_ydata().tolist() == pytest.approx(changes)


def test_tables_are_written_in_every_form(full, tmp_path):
    for table in full.values():
        for path in formatting.write(table, tmp_path):
            assert path.stat().st_size > 500
