"""Every step of the DAG on another backbone, chosen by one line of the config."""

import json

import pytest
import yaml

from hermesflow.core.files import read_table

from .conftest import make_clone

FAMILIES = ["tests.support.tiny_backbone", "janus"]
"""Both see pixels and write codes."""


@pytest.mark.parametrize("family", FAMILIES)
def test_one_line_of_the_config_runs_the_dag_on_another_backbone(tmp_path, family):
    clone = make_clone(tmp_path / "clone")
    plain = yaml.safe_load(clone.config.read_text())
    plain["language_model"]["family"] = family
    plain["preferences"]["min_image_score"] = 0.0  # trained for seconds: no image is good enough for the paper's 0.6
    if family == "janus":  # after so few steps most of its candidates are alike: more of them, or no pair is left
        plain["sampling"] = yaml.safe_load((clone.root / "config" / "smoke.yaml").read_text())["sampling"]
        plain["sampling"]["images"]["n"] = 16
    plain["checkpoints"] = {"pair-1": {"parent": "base", "objective": "pair"}}
    clone.config.write_text(yaml.safe_dump(plain, sort_keys=False))
    clone.run_in_one_process()

    table = read_table(clone.results / "report" / "tables" / "table4_gap.csv", ["checkpoint", "understanding"])
    assert {"base", "pair-1"} <= set(table["checkpoint"])
    side = plain["data"]["image_size"]
    seen = json.loads((clone.results / "images" / "seen" / "pairs.json").read_text())["form"]
    assert seen == {"kind": "pixels", "shape": [3, side, side], "dtype": "uint8"}
    images = clone.results / "seed0" / "base" / "candidates" / "images.json"
    assert json.loads(images.read_text())["form"]["kind"] == "codes"
    assert json.loads((clone.results / "seed0" / "pair-1" / "model" / "config.json").read_text())["family"] == family
    assert "nothing to be done" in clone.snakemake("-n").lower()
