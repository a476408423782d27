"""The page on what settings of one iteration change, from evaluations that are made up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.load import load_config
from hermesflow.config.reads import params_of
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import Layout, read_json, sha256, write_manifest, write_table, write_weights
from hermesflow.evaluation.bootstrap import summarise
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.evaluation.metrics import GENEVAL_KINDS
from hermesflow.report.robustness import settings_of, variants_of, write_page

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "config" / "robustness").glob("*.yaml"))
SMOKE = load_config(ROOT / "config" / "smoke.yaml")
PAIR = SMOKE.checkpoints["pair-1"]
DEFAULT = replace(SMOKE, seeds=(0, 1), checkpoints={"pair-1": PAIR, "pair-1-n2": replace(PAIR, candidates=2)})
BETAS = replace(
    DEFAULT, name="betas", checkpoints={"high": replace(PAIR, beta=1.0), "low": replace(PAIR, beta=0.05, steps=8)}
)
SCORED = replace(
    DEFAULT, name="scored", scoring=replace(SMOKE.scoring, vqa_method="likelihood"), checkpoints={"pair-1": PAIR}
)
LEVELS = {  # generation, strict acceptance
    ("smoke", "base"): (0.5, 0.3),
    ("smoke", "pair-1"): (0.6, 0.4),
    ("smoke", "pair-1-n2"): (0.6, 0.4),
    ("betas", "high"): (0.4, 0.4),
    ("betas", "low"): (0.6, 0.4),
    ("scored", "pair-1"): (0.6, 0.8),
}


@pytest.fixture
def results(tmp_path):
    """Evaluations of two seeds, 40 prompts each; the same prompts are hard for all."""
    hard = np.random.default_rng(0).uniform(-0.2, 0.2, size=40)
    for (name, checkpoint), (generation, strict) in LEVELS.items():
        for seed in DEFAULT.seeds:
            folder = Layout(tmp_path / "results" / name).checkpoint(seed, checkpoint) / "evaluation"
            levels = {"gap/same-judge/understanding": 0.8, "gap/same-judge/generation": generation, "dpg": 0.5}
            levels |= {f"geneval/{kind}": strict for kind in GENEVAL_KINDS}
            units = [(m, m, f"p{i}", value + hard[i], 1.0) for m, value in levels.items() for i in range(40)]
            write_table(folder / "units.parquet", pd.DataFrame(units, columns=list(UNIT_COLUMNS)))
            write_weights(folder / "features.safetensors", {key: torch.zeros(0, 1) for key in ("generated", "real")})
            write_manifest(folder, config=params_of(DEFAULT, "evaluate"), inputs=[], seed=seed)
    return tmp_path / "results"


def page(results, others=(BETAS, SCORED)):
    write_page(DEFAULT, others, results, results / "page")
    return (results / "page" / "README.md").read_text()


def test_a_setting_matters_where_an_interval_from_the_default_excludes_0(results):
    text = page(results)
    verdicts = [line for line in text.splitlines() if line.startswith("- `") and "(default" in line]
    assert verdicts == [
        "- `candidates` (default none, tried 2): no difference seen.",
        "- `scoring.vqa_method` (default generate, tried likelihood): **matters**: "
        "with likelihood strict acceptance +0.400 [+0.400, +0.400].",
        "- `training.beta` (default 0.2, tried 0.05; 1.0): **matters**: with 1.0 generation -0.200 [-0.200, -0.200].",
    ]
    assert "8 intervals decide: if nothing mattered, some 0.4 of them" in text


def test_rows_have_the_paired_intervals_of_the_bootstrap(results):
    page(results)
    table = pd.read_csv(results / "page" / "robustness.csv").fillna({"value": ""})
    assert list(zip(table["setting"], table["value"], strict=True)) == [
        ("default", ""),
        ("candidates", "2"),
        ("scoring.vqa_method", "likelihood"),
        ("training.beta", "0.05"),
        ("training.beta", "1.0"),
    ]
    names = {"base": ("smoke", "base"), "pair-1": ("smoke", "pair-1"), "high": ("betas", "high")}
    folders = {
        label: {seed: Layout(results / name).checkpoint(seed, checkpoint) / "evaluation" for seed in DEFAULT.seeds}
        for label, (name, checkpoint) in names.items()
    }
    known = summarise(folders, resamples=50, confidence=0.95, pairs=[("high", "pair-1")]).set_index(
        ["checkpoint", "metric", "against"]
    )
    row = table[table["checkpoint"] == "high"].iloc[0]
    for metric, key in (("gap/same-judge/gap", "gap"), ("geneval/overall", "strict"), ("dpg", "dense")):
        for against, words in (("base", "change"), ("pair-1", "from_default")):
            expected = known.loc[("high", metric, against), ["delta", "delta_low", "delta_high"]]
            ends = [f"{key}_{words}{end}" for end in ("", "_low", "_high")]
            np.testing.assert_allclose(row[ends].to_numpy(float), expected.to_numpy(float), atol=1e-6)
    assert table.loc[0, [column for column in table if "from_default" in column]].isna().all()
    assert set(table["seeds"]) == {2} and row["gap_change"] == pytest.approx(0.1)


def test_the_manifest_says_what_the_page_is_of(results):
    page(results)
    manifest = read_json(results / "page" / "manifest.json")
    assert manifest["seeds"] == [0, 1] and set(manifest["configs"]) == {"smoke", "betas", "scored"}
    assert manifest["files"] == {name: sha256(results / "page" / name) for name in ("README.md", "robustness.csv")}


def test_what_was_measured_otherwise_is_refused(results):
    folder = results / "scored" / "seed1" / "pair-1" / "evaluation"
    write_manifest(folder, config=params_of(SCORED, "evaluate"), inputs=[], seed=1)
    with pytest.raises(ArtifactError, match=rf"{folder}: was measured by other settings than those of `smoke`"):
        page(results)


def test_a_missing_evaluation_is_named(results):
    (results / "betas" / "seed0" / "low" / "evaluation" / "units.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"betas/seed0/low/evaluation/units\.parquet"):
        page(results)


def test_the_same_change_twice_is_refused(results):
    twice = replace(BETAS, name="twice", checkpoints={"other": replace(PAIR, beta=1.0)})
    with pytest.raises(
        ConfigError, match=r"`betas` and `twice`: `high` and `other` change the same \(training.beta: 1.0"
    ):
        page(results, (BETAS, twice))


def test_a_checkpoints_own_keys_stand_in_for_those_of_the_sections():
    settings = settings_of(BETAS, "high")
    assert settings["training.beta"] == 1.0 and settings["preferences.pairs"] == "both"
    assert not [key for key in settings if key.startswith(("runtime", "evaluation", "name", "seeds"))]


def test_shipped_variants_change_one_setting_each_of_all_that_are_asked_for():
    paper = load_config(ROOT / "config" / "pictures-paper.yaml")
    configs = [load_config(path) for path in SHIPPED]
    assert [config.name for config in configs] == [f"robustness-{path.stem}" for path in SHIPPED]
    default, *variants = variants_of(paper, configs)
    assert default.checkpoint == "pair-1" and all(len(one.changed) == 1 for one in variants)
    tried = {}
    for one in variants:
        tried.setdefault(one.setting, []).append(one.value)
    assert set(tried) >= {
        *("training.beta", "training.learning_rate", "training.steps", "training.mask_ratios", "candidates"),
        *("preferences.pairs", "preferences.min_image_score", "scoring.caption_measure", "scoring.vqa_prompt"),
        *("scoring.vqa_method", "sampling.images.guidance"),
    }
    assert tried["scoring.vqa_method"] == ["generate", "likelihood"]
    assert all(config.seeds == paper.seeds for config in configs)
