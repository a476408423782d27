"""Tables 1 to 5 and the tables of trust."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from hermesflow.config.benchmarks import reported
from hermesflow.config.sections import Checkpoint, Objective
from hermesflow.core.errors import ArtifactError
from hermesflow.report import audit, formatting
from hermesflow.report.answer import answer
from hermesflow.report.columns import GAP_SIDES, columns_of
from hermesflow.report.formatting import EMPTY, Table
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import arm_pairs, candidate_sweep, main_checkpoints, pair_chain, roles
from hermesflow.report.tables import all_tables, gap_table
from tests.support.report_world import PAPER_TABLES, ROOT, make_summary, micro, pictures, pictures_summary, showo


@pytest.fixture(scope="module")
def made() -> dict[str, Table]:
    return {table.name: table for table in all_tables(make_summary(), micro(), PAPER_TABLES)}


def test_understanding_keeps_measured_and_quoted_apart(made):
    table = made["table1_understanding"].values
    measured, paper = table[table["source"] == "measured here"], table[table["source"] == "paper, camera-ready"]
    assert len(measured) + len(paper) == len(table)
    assert list(measured["model"]) == ["base", "pair-3"]
    assert measured["pope"].tolist() == pytest.approx([92.0, 92.1])
    columns = ["pope", "mme", "cider", "vqa", "gqa", "mmmu"]
    assert paper.drop(columns=["model", "source", *columns]).isna().all(axis=None)
    assert paper.set_index("model").loc["Show-o", columns].tolist() == [80.0, 1232.9, 67.6, 74.7, 61.0, 27.4]


@pytest.mark.parametrize("real", [False, True], ids=["micro", "real"])
@pytest.mark.parametrize("path", sorted(PAPER_TABLES.glob("*.csv")), ids=lambda path: path.stem)
def test_every_figure_of_the_paper_is_quoted_in_exactly_one_column(path, real):
    benchmarks = reported(showo().benchmarks)
    columns = GAP_SIDES if path.stem == "table4_gap" else columns_of(path.stem, benchmarks, real=real)
    printed = set(pd.read_csv(path).columns) - {"model", "source", "role", "parameters"}
    assert sorted(column.quoted for column in columns if column.quoted) == sorted(printed)


def test_the_quoted_cells_are_the_paper_s_own_text(made):
    table = made["table2_generation"]
    assert list(table.quoted.columns) == list(table.cells.columns)
    printed = pd.read_csv(PAPER_TABLES / "table2_generation.csv", dtype=str, keep_default_na=False)
    assert table.quoted["Color attribution"].tolist() == printed["color_attribution"].tolist()
    assert table.quoted["Dense (DPG)"].tolist() == [text or EMPTY for text in printed["dpg"]]


def test_quoted_rows_stand_under_a_heading_of_their_own(made):
    table = made["table1_understanding"]
    lines = formatting.to_markdown(table).splitlines()
    heading = next(i for i, line in enumerate(lines) if "**Quoted from the paper" in line)
    assert [line.split(" | ")[0] for line in lines[heading - 2 : heading + 2]] == [
        "| base         ", "| pair-3       ", "| **Quoted from the paper, camera-ready**", "| Gemini-Nano-1"
    ]  # fmt: skip
    assert lines[heading].count("|") == lines[heading + 1].count("|")
    latex = formatting.to_latex(table).splitlines()
    heading = next(i for i, line in enumerate(latex) if line.startswith("\\multicolumn{7}{l}{\\emph{Quoted"))
    assert latex[heading - 1] == "\\midrule"
    assert latex[heading - 2].split()[0] == "pair-3" and latex[heading + 1].split()[0] == "Gemini-Nano-1"


def test_the_micro_world_has_the_papers_tables_alone(made):
    names = ["table1_understanding", "table2_generation", "table3_fidelity", "table4_gap", "table5_ablation"]
    assert list(made) == names


def test_genevals_own_prompts_are_a_column_where_the_world_was_asked_any(made):
    tables = {table.name: table for table in all_tables(pictures_summary(), pictures(), PAPER_TABLES)}
    generation, ablation = tables["table2_generation"], tables["table5_ablation"]
    title = "GenEval's own prompts"
    assert list(generation.cells.columns)[-3:] == ["Overall", title, "Dense (DPG)"]
    assert list(generation.cells[title]) == ["0.44 [0.42, 0.46]", "0.52 [0.50, 0.54]"]
    assert generation.values["geneval_own_low"][0] == pytest.approx(0.742 - 0.3 - 0.02)
    assert ablation.cells.set_index("Checkpoint").loc["pair-1", title] == "0.493 (+0.051 [+0.031, +0.071])"
    for table in (generation, ablation):
        assert set(table.quoted[title]) == {EMPTY}
        assert any("the 179 of its 553 that the pictures world can be asked" in note for note in table.notes)
    for name in ("table2_generation", "table5_ablation"):
        assert title not in made[name].cells and not any("its 553" in note for note in made[name].notes)


def test_notes_are_about_the_world_of_the_config(made):
    tables = {table.name: table for table in all_tables(pictures_summary(), pictures(), PAPER_TABLES)}
    notes = {name: " ".join(table.notes) for name, table in tables.items()}
    for name in ("table1_understanding", "table5_ablation"):
        assert "the pictures world, with its 64 px scenes of emoji on five grounds, has no" in notes[name]
        assert "the micro world, with its 48 px scenes of flat shapes, has no" in " ".join(made[name].notes)
    assert "of the pictures world's own CLIP" in notes["table3_fidelity"]
    assert not [name for name, text in notes.items() if "micro world" in text or "flat shapes" in text]


def test_mmmu_is_empty_with_the_reason(made):
    for name in ("table1_understanding", "table5_ablation"):
        table = made[name]
        assert set(table.cells["MMMU"]) == {EMPTY}
        assert any("MMMU is empty" in note for note in table.notes)


def test_generation_marks_the_preprint(made):
    rows = made["table2_generation"].values.query("model == 'Show-o'")
    assert rows.set_index("source")["overall"].to_dict() == {"paper, camera-ready": 0.64, "paper, preprint": 0.53}
    quoted = made["table2_generation"].quoted.set_index("Model")["Overall"]
    assert (quoted["Show-o"], quoted["Show-o (preprint)"]) == ("0.64", "0.53")


def test_quoted_figures_keep_the_decimals_of_the_paper(made):
    dense = made["table2_generation"].quoted.query("Model == 'HermesFlow'")["Dense (DPG)"]
    assert list(dense) == ["70.22"]
    ablation = made["table5_ablation"].quoted.set_index("Checkpoint").loc["as pair-3"]
    assert (ablation["GenEval"], ablation["DPG"], ablation["MME"]) == ("0.69", "70.22", "1249.7")


def test_gap_csv_has_exactly_the_agreed_columns_and_measured_rows_alone(made):
    table = made["table4_gap"].values
    assert list(table.columns) == [
        "checkpoint", "protocol", "understanding", "generation", "gap", "both_right",
        "delta_gap", "delta_gap_low", "delta_gap_high",
        "delta_generation", "delta_generation_low", "delta_generation_high",
        "delta_understanding", "delta_understanding_low", "delta_understanding_high",
        "delta_both_right", "delta_both_right_low", "delta_both_right_high", "seeds",
    ]  # fmt: skip
    assert set(table["protocol"]) == {"paper", "same-judge"}
    assert len(table) == 2 * (1 + len(micro().checkpoints))
    last = table.set_index(["checkpoint", "protocol"]).loc[("pair-3", "same-judge")]
    assert last["gap"] == pytest.approx(0.871 - 0.821)
    assert last["delta_gap"] == pytest.approx((0.871 - 0.821) - (0.870 - 0.742))
    assert last["delta_generation_low"] == pytest.approx(0.079 - 0.02)
    assert last["seeds"] == 3
    assert math.isnan(table.loc[0, "delta_gap"])


def test_both_right_is_a_column_with_its_interval_and_paired_change(made):
    cells = made["table4_gap"].cells.set_index(["Model", "Protocol"]).loc[("pair-3", "same-judge")]
    assert cells["Both right"] == "0.721 [0.701, 0.741]"  # 0.821 - 0.1, as tests/support makes it
    assert cells["Change of both right"] == "+0.079 [+0.059, +0.099]"
    assert set(made["table4_gap"].quoted["Both right"]) == {EMPTY}
    assert any(note.startswith("Both right:") for note in made["table4_gap"].notes)


def test_without_both_right_the_gap_table_has_no_such_column():
    summary = make_summary()
    table = gap_table(Figures(summary[~summary["metric"].str.endswith("both_right")]), micro(), PAPER_TABLES, {})
    assert "both" not in f"{list(table.values)} {list(table.cells)} {table.notes}".lower().replace("both sides", "")


def test_gap_text_has_the_quoted_rows_marked(made):
    cells, quoted = made["table4_gap"].cells, made["table4_gap"].quoted
    assert list(quoted["Gap"]) == ["0.169", "0.182", "0.087", "0.036"]
    assert set(quoted["Change of gap"]) == {EMPTY} and "neither intervals, changes nor" in made["table4_gap"].notes[-1]
    assert cells.loc[1, "Change of gap"] == "-0.052 [-0.072, -0.032]"


def test_ablation_has_every_checkpoint_and_the_papers_rows_name_their_counterparts(made):
    values = made["table5_ablation"].values
    measured, paper = values[values["source"] == "measured here"], values[values["source"] == "paper, camera-ready"]
    table = measured.set_index("checkpoint")
    assert list(table.index) == ["base", *micro().checkpoints]
    assert paper["checkpoint"].isna().all()
    both = measured.merge(paper, on="role", suffixes=("", "_paper")).set_index("checkpoint")
    assert both["geneval_paper"].to_dict() == {
        "base": 0.64, "pair-1": 0.68, "pair-2": 0.69, "pair-3": 0.69, "und-1": 0.58, "gen-1": 0.70,
    }  # fmt: skip
    quoted = made["table5_ablation"].quoted.set_index("Checkpoint")
    assert quoted.loc["as gen-1", ["Arm", "GenEval"]].tolist() == ["DPO, generation only", "0.70"]
    assert table.loc["gen-1", "gap_same_judge_delta_high"] == pytest.approx((0.071 - 0.128) + 0.02)


def test_fewer_checkpoints_give_fewer_rows():
    config = micro()
    small = replace(config, checkpoints={"pair-1": config.checkpoints["pair-1"]})
    summary = make_summary({"base": (0.8, 0.6), "pair-1": (0.8, 0.65)}, seeds=1)
    found = {t.name: t for t in all_tables(summary, small, PAPER_TABLES)}
    assert list(found["table5_ablation"].cells["Checkpoint"]) == ["base", "pair-1"]
    assert list(found["table5_ablation"].quoted["Checkpoint"]) == ["as base", EMPTY, EMPTY, "as pair-1", EMPTY, EMPTY]
    assert len(found["table4_gap"].values) == 4
    assert list(found["table1_understanding"].values["model"][:2]) == ["base", "pair-1"]


def test_the_ablation_tells_objectives_apart():
    tree = {f"{objective}-1": Checkpoint(parent="base", objective=objective) for objective in get_args(Objective)}
    summary = make_summary(dict.fromkeys(("base", *tree), (0.8, 0.6)), seeds=1)
    tables = {table.name: table for table in all_tables(summary, replace(micro(), checkpoints=tree), PAPER_TABLES)}
    arms = tables["table5_ablation"].values.dropna(subset="checkpoint").set_index("checkpoint")["arm"]
    assert arms["generation-1"] == "DPO, generation only, iteration 1"
    assert arms["chosen-1"] == "best-of-n fine-tuning, iteration 1"
    assert arms.is_unique


def test_the_ablation_names_what_an_arm_is_trained_with():
    ways = {
        "plain": {},
        "beta": {"beta": 0.1},
        "few": {"candidates": 2, "learning_rate": 3e-5},
        "nll": {"chosen_nll_weight": 1.0, "chosen_nll_reduction": "token_mean"},
        "high": {"mask_ratios": (0.85, 1.0)},
        "any": {"pairs": "any", "rejected": "fresh"},
    }
    tree = {name: Checkpoint(parent="base", objective="pair", **changes) for name, changes in ways.items()}
    summary = make_summary(dict.fromkeys(("base", *tree), (0.8, 0.6)), seeds=1)
    tables = {table.name: table for table in all_tables(summary, replace(micro(), checkpoints=tree), PAPER_TABLES)}
    arms = tables["table5_ablation"].values.dropna(subset="checkpoint").set_index("checkpoint")["arm"]
    first = "Pair-DPO, iteration 1"
    assert arms.drop("base").to_dict() == {
        "plain": first,
        "beta": f"{first}, beta 0.1",
        "few": f"{first}, 2 candidates, learning_rate 3e-05",
        "nll": f"{first}, chosen_nll_weight 1.0, chosen_nll_reduction token_mean",
        "high": f"{first}, mask_ratios 0.85 to 1.0",
        "any": f"{first}, pairs any, rejected fresh",
    }


def test_missing_file_of_quoted_figures_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"table1_understanding\.csv"):
        all_tables(make_summary(), micro(), tmp_path)


def test_every_quoted_row_names_its_edition():
    for path in sorted(PAPER_TABLES.glob("*.csv")):
        assert set(pd.read_csv(path)["source"]) <= {"camera-ready", "preprint"}, path.name


def test_quoted_gaps_and_means_add_up():
    gaps = pd.read_csv(PAPER_TABLES / "table4_gap.csv")
    assert (gaps["understanding"] - gaps["generation"] - gaps["gap"]).abs().max() < 1e-9
    kinds = ["single_object", "two_objects", "counting", "colors", "position", "color_attribution"]
    geneval = pd.read_csv(PAPER_TABLES / "table2_generation.csv")
    assert (geneval[kinds].mean(axis=1) - geneval["overall"]).abs().max() < 0.015


def test_files_are_written_and_the_same_twice(tmp_path, made):
    table = made["table4_gap"]
    first = [p.read_bytes() for p in formatting.write(table, tmp_path / "a")]
    second = [p.read_bytes() for p in formatting.write(table, tmp_path / "b")]
    assert first == second
    assert pd.read_csv(tmp_path / "a" / "table4_gap.csv").shape == table.values.shape
    markdown = (tmp_path / "a" / "table4_gap.md").read_text()
    assert markdown.count("\n|") == 2 + len(table.cells) + 1 + len(table.quoted)
    latex = (tmp_path / "a" / "table4_gap.tex").read_text()
    assert "\\toprule" in latex and "\\begin{table}" in latex


def test_latex_escapes_what_latex_would_read():
    table = Table("a_b", "50 % & more", pd.DataFrame({"x": [1.0]}), pd.DataFrame({"x_y": ["1 % & #"]}), ("a_b",))
    latex = formatting.to_latex(table)
    assert "50 \\% \\& more" in latex and "x\\_y" in latex and "1 \\% \\& \\#" in latex
    assert latex.count("&") == latex.count("\\&")


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (-0.0001, -0.02, 0.02, "+0.000 [-0.020, +0.020]"),
        (0.5, float("nan"), float("nan"), "+0.500"),
        (float("nan"), float("nan"), float("nan"), EMPTY),
    ],
)
def test_numbers_as_text(value, low, high, text):
    assert formatting.with_interval(value, low, high, 3, signed=True) == text


def test_roles_follow_the_tree_and_not_the_names():
    config = micro()
    tree = {
        "quick": Checkpoint(parent="base", objective="pair", beta=0.05),
        "first": Checkpoint(parent="base", objective="pair"),
        "second": Checkpoint(parent="first", objective="pair", beta=0.1),
        "u": Checkpoint(parent="base", objective="understanding"),
        "few": Checkpoint(parent="base", objective="pair", candidates=2),
        "best": Checkpoint(parent="base", objective="chosen"),
    }
    config = replace(config, checkpoints=tree)
    assert pair_chain(config) == ("first", "second")
    assert main_checkpoints(config) == ("base", "second")
    assert roles(config) == {"base": "base", "pair-1": "first", "pair-2": "second", "understanding": "u"}
    assert candidate_sweep(config) == {2: "few", 8: "first"}


def test_arms_are_found_by_what_they_are_trained_on():
    config, base = micro(), {"parent": "base"}
    assert arm_pairs(config) == (("pair-1", "gen-1"), ("dpo-1", "gen-1"))

    def chosen(parent, candidates=None):
        entry = Checkpoint(parent=parent, objective="generation", candidates=candidates)
        object.__setattr__(entry, "objective", "chosen")  # known by its name, whether the config knows it yet or not
        return entry

    tree = {
        "mine": Checkpoint(**base, objective="pair"),
        "second": Checkpoint(parent="mine", objective="pair"),
        "images": Checkpoint(**base, objective="generation"),
        "few": chosen("base", 2),
        "later": chosen("mine"),
        "best": chosen("base"),
    }
    assert arm_pairs(replace(config, checkpoints=tree)) == (("mine", "best"), ("mine", "images"))
    assert arm_pairs(replace(config, checkpoints={"best": chosen("base")})) == ()


def test_preferences_table_counts_every_reason():
    tree = {
        "captions": {"ids": 10, "candidates": 80, "updated": 0, "kept": 8, "dropped": {"same text": 2}},
        "images": {"ids": 10, "candidates": 80, "updated": 0, "kept": 5, "dropped": {"tie": 3, "below threshold": 2}},
        "homologous": {
            "kept": 4,
            "dropped": {"captions": {"other side missing": 4}, "images": {"other side missing": 1}},
        },
    }
    table = audit.preferences_table({"pair-1": {0: tree, 1: tree}}).values
    assert len(table) == 4
    images = table[(table["side"] == "images") & (table["seed"] == 1)].iloc[0]
    assert images["dropped: tie"] == 3 and images["dropped: same text"] == 0
    for _, row in table.iterrows():
        dropped = sum(row[c] for c in table.columns if c.startswith("dropped: ") and "other side" not in c)
        assert row["ids"] == row["kept"] + dropped
        assert row["kept"] == row["trained on"] + row["dropped: other side missing"]


def test_agreement_table_has_one_row_per_measure_and_seed():
    tree = {
        "captions": {"embedding": {"kendall_tau": 0.6, "pairs": 5}, "bleu": {"kendall_tau": None, "pairs": 5}},
        "images": {"generate": {"share": {"kendall_tau": 0.5, "pairs": 5}}},
        "pairs": 5,
    }
    table = audit.agreement_table({0: tree, 3: tree})
    assert list(table.values["measure"]) == ["embedding", "bleu", "generate/share"] * 2
    assert list(table.values["seed"]) == [0, 0, 0, 3, 3, 3]
    assert table.cells.loc[1, "kendall_tau"] == EMPTY


def test_without_a_judge_the_tables_of_trust_are_empty_and_say_why():
    table = audit.judge_table({"no judge": "of another world"}, "eye")
    assert table.values.to_dict("records") == [{"no judge": "of another world"}]
    assert "of another world" in formatting.to_markdown(table)
    empty = audit.agreement_table({0: {"captions": {}, "images": {}, "pairs": 0}})
    assert "(no rows)" in formatting.to_markdown(empty)


def test_judge_table_keeps_kinds_and_counts():
    tree = {
        "real images": {"all": {"images": 4, "questions right": 1.0}},
        "reconstructions": {"all": {"images": 4, "questions right": 0.98, "same scene": 0.97}},
    }
    made = audit.judge_table(tree, "least squares")
    assert "reads pixels by least squares, without a model" in made.notes[0]
    table = made.values
    assert table["read from"].tolist() == ["real images", "reconstructions"]
    assert table["images"].tolist() == [4, 4] and table["same scene"].tolist()[1] == 0.97


def test_rejected_table_counts_and_may_be_empty(tmp_path: Path):
    empty = audit.rejected_table(pd.DataFrame(columns=["split", "id", "record", "reason"]))
    assert "(no rows)" in formatting.to_markdown(empty) and "0 records" in empty.notes[0]
    one = pd.DataFrame({"split": ["pairs"], "id": ["a"], "record": [3], "reason": ["empty caption"]})
    assert "empty caption" in formatting.to_markdown(audit.rejected_table(one))


def test_what_became_of_real_pairs_is_said_below_the_records_set_aside():
    selection = {
        "records": {"read": 1200, "drawn": 1000, "set aside": 150, "not needed": 50},
        "changes": {"turned upright": 3, "resized": 1000},
    }
    rows = [("model", "caption says another choice", 20), ("model", "kept", 7), ("source", "kept", 1993)]
    questions = pd.DataFrame(rows, columns=["from", "outcome", "questions"])
    note = audit.data_note(selection, questions, {"base": 12, "pairs": 0})
    assert note == (
        "Of 1,200 records 1,000 were drawn and 50 not needed. Of those drawn: 1,000 resized; 3 turned upright. "
        "Questions: 2,000 kept; dropped: 20 of the model's, caption says another choice. "
        "Captions longer than the model takes, cut where it draws from them: 12 in base."
    )
    empty = pd.DataFrame(columns=["split", "id", "record", "reason"])
    assert audit.rejected_table(empty, note).notes[0].endswith(f"evaluated on. {note}")
    assert audit.data_note(selection, questions, {"base": 0}).endswith("cut where it draws from them: none.")


def test_tables_of_the_micro_world_stay_as_they_were_published():
    """The text tables, made again of the published statistics, whose rounding to 6 decimals may turn a last digit."""
    published = ROOT / "docs" / "results" / "micro" / "tables"
    for table in all_tables(pd.read_csv(published / "statistics.csv"), micro(), PAPER_TABLES):
        for text, suffix in ((formatting.to_markdown(table), "md"), (formatting.to_latex(table), "tex")):
            one, other = (split_numbers(t) for t in (text, (published / f"{table.name}.{suffix}").read_text("utf-8")))
            assert one[0] == other[0]
            for mine, theirs in zip(one[1], other[1], strict=True):
                assert abs(float(mine) - float(theirs)) < 1.5 * 10.0 ** -len(theirs.partition(".")[2])
        assert list(table.values.columns) == list(pd.read_csv(published / f"{table.name}.csv").columns)


def split_numbers(text: str) -> tuple[str, list[str]]:
    """A text with its digits made the same, and its numbers with decimals."""
    numbers = re.findall(r"\d+\.\d+", text)
    return re.sub(r"\d", "0", text), numbers


def test_answer_of_the_micro_world_stays_as_it_was_published():
    published = ROOT / "docs" / "results" / "micro"
    summary = pd.read_csv(published / "tables" / "statistics.csv")
    assert answer(summary, micro()) == (published / "answer.md").read_text(encoding="utf-8")
