"""Every step of the DAG on another backbone, chosen by one line of the config."""

import json

import yaml

from hermesflow.core.files import read_table

from .conftest import make_clone

FAMILY = "tests.support.tiny_backbone"


def test_one_line_of_the_config_runs_the_dag_on_another_backbone(tmp_path):
    clone = make_clone(tmp_path / "clone")
    plain = yaml.safe_load(clone.config.read_text())
    plain["language_model"]["family"] = FAMILY
    plain["preferences"]["min_image_score"] = 0.0  # trained for seconds: no image is good enough for the paper's 0.6
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
    assert json.loads((clone.results / "seed0" / "pair-1" / "model" / "config.json").read_text())["family"] == FAMILY
    assert "nothing to be done" in clone.snakemake("-n").lower()
