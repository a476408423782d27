from pathlib import Path

import pytest

from hermesflow.artifacts import Layout, read_json, sha256, write_json
from hermesflow.config import load_config
from hermesflow.errors import ArtifactError
from hermesflow.publishing import publish

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
