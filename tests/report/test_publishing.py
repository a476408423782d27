import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hermesflow.cli.main import STAGES
from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, sha256, write_json
from hermesflow.report.publish import PICTURE, fill, fill_dag, fill_readme, publish, write_page

ROOT = Path(__file__).parents[2]
CONFIG, MICRO = (load_config(ROOT / "config" / f"{name}.yaml") for name in ("smoke", "micro"))


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "results" / "smoke")
    for name in ("tables/table4_gap.csv", "figures/fig2b_gap.png", "answer.md", "summary.json"):
        path = layout.report / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o444)  # as DVC leaves them
    write_json(layout.root / "data" / "manifest.json", {"seed": 7})
    return layout


def test_copies_are_writable_and_named_in_the_manifest(layout, tmp_path):
    target = tmp_path / "docs"
    publish(CONFIG, layout, target, seeds=[0, 1])
    publish(CONFIG, layout, target, seeds=[0, 1])
    manifest = read_json(target / "manifest.json")
    assert manifest["seeds"] == [0, 1]
    assert manifest["files"]["tables/table4_gap.csv"] == sha256(target / "tables" / "table4_gap.csv")
    assert set(manifest["files"]) == {"tables/table4_gap.csv", "figures/fig2b_gap.png", "answer.md", "summary.json"}
    (target / "answer.md").write_text("can be written")


def test_durations_are_means_by_rule_of_each_jobs_last_run(layout, tmp_path):
    target = tmp_path / "docs"
    durations = layout.root / "logs" / "durations.csv"
    durations.parent.mkdir()
    durations.write_text("output,rule,seconds\na,train,90.0\na,train,10.0\nb,train,21.0\nc,report,5.04\n")
    write_json(target / "durations.json", {"train": 1.0, "base": 70.0})
    publish(CONFIG, layout, target, seeds=[0])
    assert read_json(target / "durations.json") == {"base": 70.0, "report": 5.0, "train": 15.5}
    manifest = read_json(target / "manifest.json")
    assert manifest["files"]["durations.json"] == sha256(target / "durations.json")
    (target / "figures" / "fig2b_gap.png").touch()
    write_page(target)
    lines = [line.strip("|").split("|") for line in (target / "README.md").read_text().splitlines() if "|" in line]
    assert [[cell.strip() for cell in line] for line in lines][2:] == [
        ["base", "70.0"],
        ["train", "15.5"],
        ["report", "5.0"],
    ]


def test_durations_stay_where_the_results_were_made_elsewhere(layout, tmp_path):
    target = tmp_path / "docs"
    write_json(target / "durations.json", {"base": 70.0})
    publish(CONFIG, layout, target, seeds=[0])
    assert read_json(target / "durations.json") == {"base": 70.0}
    assert "durations.json" in read_json(target / "manifest.json")["files"]


def test_what_the_report_no_longer_has_goes(layout, tmp_path):
    target = tmp_path / "docs"
    publish(CONFIG, layout, target, seeds=[0, 1])
    (target / "tables" / "old.csv").write_text("")
    publish(CONFIG, layout, target, seeds=[0, 1])
    assert not (target / "tables" / "old.csv").exists()


def test_an_unfinished_report_is_not_published(layout, tmp_path):
    (layout.report / "answer.md").unlink()
    with pytest.raises(ArtifactError, match=r"answer\.md.*Run snakemake"):
        publish(CONFIG, layout, tmp_path / "docs", seeds=[0])
    assert not (tmp_path / "docs").exists()


@pytest.fixture
def micro_pages(tmp_path):
    """A README with an empty section of results, and a copy of the published results of micro."""
    published = tmp_path / "docs" / "results" / "micro"
    shutil.copytree(ROOT / "docs" / "results" / "micro", published)
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- results:begin -->\nold\n<!-- results:end -->\nbelow\n")
    return readme, published


def test_readme_has_the_figure_and_five_rows_of_table_4_as_published(micro_pages):
    readme, published = micro_pages
    fill_readme(readme, published, MICRO)
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("<!-- results:end -->\nbelow\n") and "old" not in text
    assert "](docs/results/micro/figures/fig2b_gap.png)" in text
    header, _, *rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert header == ["Model", "Understanding", "Generation", "Gap", "Change of gap", "Change of generation"]
    assert [row[0] for row in rows] == ["base", "pair-1", "pair-2", "pair-3", "dpo-3"]
    printed = (published / "tables" / "table4_gap.md").read_text()
    (last,) = (line for line in printed.splitlines() if line.startswith("| pair-3 ") and "same-judge" in line)
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert rows[3][1:] == [*(cell.split(" [")[0] for cell in cells[2:5]), *cells[5:7]]
    claims = {claim["claim"]: claim["verdict"] for claim in read_json(published / "summary.json")["claims"]}
    assert claims["the gap narrowed"] == "yes" and "*the gap narrowed*, yes" in text
    fill_readme(readme, published, MICRO)
    assert readme.read_text() == text


def test_readme_shows_pictures_before_and_after_where_the_report_has_them(micro_pages):
    readme, published = micro_pages
    fill_readme(readme, published, MICRO)
    without = readme.read_text()
    (published / "figures" / "before_after.png").write_bytes(b"")
    fill_readme(readme, published, MICRO)
    line = "![Pictures of `base` and of `pair-3`, for the first prompt of each kind]"
    line += "(docs/results/micro/figures/before_after.png)\n\n"
    assert line in readme.read_text() and readme.read_text().replace(line, "") == without


def test_readme_has_both_right_where_the_report_has_it(micro_pages):
    readme, published = micro_pages
    table = published / "tables" / "table4_gap.md"
    rows = [line.split("|") for line in table.read_text().splitlines()]
    for row in rows:
        if len(row) > 6 and row[1].strip("* -:"):
            row.insert(6, "Both right" if row[1].strip() == "Model" else "0.700 [0.6, 0.8]")
        elif len(row) > 6:
            row.insert(6, "---")
    table.write_text("\n".join("|".join(row) for row in rows))
    fill_readme(readme, published, MICRO)
    header, _, *lines = [line.strip("|").split("|") for line in readme.read_text().splitlines() if "|" in line]
    assert [cell.strip() for cell in header][3:5] == ["Gap", "Both right"]
    assert {line[4].strip() for line in lines} == {"0.700"}


def test_readme_of_a_short_config_has_fewer_rows(micro_pages):
    readme, published = micro_pages
    fill_readme(readme, published, replace(MICRO, checkpoints={"pair-1": MICRO.checkpoints["pair-1"]}))
    rows = [line.split("|")[1].strip() for line in readme.read_text().splitlines() if "|" in line]
    assert rows[2:] == ["base", "pair-1"]


def test_page_of_a_config_has_the_answer_all_tables_and_all_figures(micro_pages):
    _, published = micro_pages
    write_page(published)
    text = (published / "README.md").read_text()
    assert text.startswith("# Results of the config `micro`\n") and text.count("\n# ") == 0
    assert "\n## Did the gap narrow?\n" in text
    for path in (published / "tables").glob("table[1-5]*.md"):
        assert path.read_text().strip() in text
    for path in (published / "figures").iterdir():
        assert f"](figures/{path.name})" in text


def rule_graph(rules, arrows, colours=""):
    """What `snakemake --rulegraph mermaid-js` prints."""
    number = {rule: f"id{i}" for i, rule in enumerate(rules)}
    lines = [f"\t{number[rule]}[{rule}]" for rule in rules] + [colours]
    lines += [f"\t{number[a]} --> {number[b]}" for a, b in arrows]
    return "---\ntitle: DAG\n---\nflowchart TB\n" + "\n".join(lines) + "\n"


@pytest.fixture
def dag_pages(tmp_path):
    paths = tmp_path / "README.md", tmp_path / "workflow.md"
    for path in paths:
        path.write_text("<!-- dag:begin -->\n<!-- dag:end -->\n")
    return paths


def test_dag_has_neither_colours_nor_chance(dag_pages):
    readme, page = dag_pages
    arrows = [("data", "all"), ("base", "all")]
    fill_dag(readme, page, rule_graph(["all", "data", "base"], arrows, "\tstyle id0 fill:#D97557"))
    texts = [path.read_text() for path in dag_pages]
    assert texts[1].splitlines()[1:6] == ["```mermaid", "flowchart TB", "    base --> all", "    data --> all", "```"]
    fill_dag(readme, page, rule_graph(["base", "data", "all"], arrows[::-1]))
    assert [path.read_text() for path in dag_pages] == texts


def test_dag_of_the_readme_is_a_chain_with_one_loop(dag_pages):
    readme, page = dag_pages
    chain = [
        "data",
        "tokenizer",
        "base",
        "sample",
        "gather_candidates",
        "score",
        "gather_scores",
        "prefer",
        "reference",
    ]
    chain += ["train", "evaluate", "report", "all"]
    arrows = [*pairwise(chain), *(("data", rule) for rule in chain[2:]), ("train", "sample"), ("train", "score")]
    fill_dag(readme, page, rule_graph(chain, [*arrows, ("prefer", "prefer"), ("prefer", "report")]))
    lines = [line.strip() for line in readme.read_text().splitlines() if "--" in line and "<!" not in line]
    forward = [f"{a} --> {b}" for a, b in pairwise(PICTURE)]
    assert lines == [*forward, "train -- next iteration --> sample"]


def test_every_rule_has_its_node_and_a_new_one_is_named(dag_pages):
    grouped = [rule for _, rules in PICTURE.values() for rule in rules]
    assert sorted(grouped) == sorted([*STAGES, "all"])
    with pytest.raises(ArtifactError, match=r"\['polish'\].*PICTURE"):
        fill_dag(*dag_pages, rule_graph(["polish", "all"], [("polish", "all")]))


def test_a_readme_without_markers_is_left_as_it_is(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ArtifactError, match="results:begin"):
        fill(readme, "results", "text")
    assert readme.read_text() == "no markers"
    with pytest.raises(ArtifactError, match="results:begin"):
        fill(tmp_path / "missing.md", "results", "text")
