from pathlib import Path

import pytest

from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, sha256, write_json
from hermesflow.report.publish import fill, fill_dag, fill_readme, publish

CONFIG = load_config(Path(__file__).parents[1] / "config" / "smoke.yaml")


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


def test_readme_shows_the_published_files_between_its_markers(layout, tmp_path):
    target, readme = tmp_path / "docs" / "smoke", tmp_path / "README.md"
    for name in ("table4_gap", "table5_ablation"):
        (layout.report / "tables" / f"{name}.md").write_text(f"| {name} |")
    publish(CONFIG, layout, target, seeds=[0])
    readme.write_text("above\n<!-- results:begin -->\nold\n<!-- results:end -->\nbelow\n")
    fill_readme(readme, target)
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("<!-- results:end -->\nbelow\n") and "old" not in text
    assert "(docs/smoke/figures/fig2b_gap.png)" in text and "| table5_ablation |" in text
    fill_readme(readme, target)
    assert readme.read_text() == text


def test_dag_of_the_readme_has_neither_colours_nor_chance(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- dag:begin -->\n<!-- dag:end -->\n")
    head, colours = "---\ntitle: DAG\n---\nflowchart TB\n", "\tstyle id0 fill:#D97557\n"
    fill_dag(readme, f"{head}\tid0[all]\n\tid1[data]\n\tid2[base]\n{colours}\tid1 --> id0\n\tid2 --> id0\n")
    lines = readme.read_text().splitlines()
    assert lines[1:6] == ["```mermaid", "flowchart TB", "    base --> all", "    data --> all", "```"]
    fill_dag(readme, f"{head}\tid4[base]\n\tid0[data]\n\tid1[all]\n\tid4 --> id1\n\tid0 --> id1\n")
    assert readme.read_text().splitlines() == lines


def test_a_readme_without_markers_is_left_as_it_is(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    with pytest.raises(ArtifactError, match="results:begin"):
        fill(readme, "results", "text")
    assert readme.read_text() == "no markers"
