"""Stage `report` on a small results folder: all files, twice the same, and clear errors."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, write_json, write_table, write_weights
from hermesflow.core.images import read_images, write_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import write_pairs
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.evaluation.metrics import COMPOSED
from hermesflow.models.codecs import image_form
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.stages import report
from tests.support.report_world import ROOT, metrics_of

PAIRS = 8
TABLES = ("table1_understanding", "table2_generation", "table3_fidelity", "table4_gap", "table5_ablation")
AUDITS = ("table_agreement", "table_judge", "table_preferences", "table_rejected")
FIGURES = ("fig2b_gap", "fig4_samples", "before_after", "fig6_candidates", "training_curves", "preference_examples")


def small() -> Config:
    config = load_config(ROOT / "config" / "smoke.yaml")
    keep = {name: config.checkpoints[name] for name in ("pair-1", "und-1", "gen-1", "pair-1-n2")}
    return replace(config, checkpoints=keep, evaluation=replace(config.evaluation, bootstrap=20))


def write_evaluation(folder: Path, prompts: list[str], config: Config, level: float) -> None:
    random = np.random.default_rng(0)
    parts = {part for parts in COMPOSED.values() for part in parts if not part.startswith("gap/self/")}
    measured = {*metrics_of(0.5, 0.5), *parts}  # of a small world: real images have protocol `self` too
    units = [
        {
            **{"metric": metric, "pool": "fid" if metric == "clip_score" else metric, "id": f"i{i}"},
            **{"numerator": level * random.random(), "denominator": 1.0},
        }
        for metric in sorted(measured - {*COMPOSED, "fid"})
        for i in range(6)
    ]
    write_table(folder / "units.parquet", pd.DataFrame(units, columns=list(UNIT_COLUMNS)))
    features = torch.tensor(random.normal(size=(6, 3)))
    write_weights(folder / "features.safetensors", {"generated": features, "real": features + 0.1})
    codes = random.integers(0, config.codebook_size, size=(len(prompts), 1, config.num_image_tokens))
    write_images(folder / "samples.npy", prompts, codes, image_form(config.data.image_size, config.image_tokenizer))
    write_json(folder / "metrics.json", {"vqa": level})


def write_training(folder: Path, ids: list[str], config: Config) -> None:
    random = np.random.default_rng(1)
    steps = np.arange(1, 5)
    names = [f"{kind}/{term}" for kind in ("loss", "rewards/margins", "rewards/accuracies") for term in ("t2i", "mmu")]
    columns = {"step": steps, "loss": 1.4 - 0.1 * steps, **{name: 0.1 * steps for name in names}}
    write_table(folder / "model" / "history.csv", pd.DataFrame(columns))
    codes = random.integers(0, config.codebook_size, size=(len(ids), 2, config.num_image_tokens))
    form = image_form(config.data.image_size, config.image_tokenizer)
    write_images(folder / "preferences" / "images.npy", ids, codes, form)
    preferences = {
        **{"id": ids, "chosen_caption": "a circle", "rejected_caption": "a cross"},
        **{"chosen_caption_score": 0.9, "rejected_caption_score": 0.4},
        **{"chosen_image_score": 1.0, "rejected_image_score": 0.2},
    }
    write_table(folder / "preferences" / "preferences.parquet", pd.DataFrame(preferences))
    side = {"ids": 8, "candidates": 32, "updated": 0, "kept": 8, "dropped": {}}
    lonely = {"captions": {"other side missing": 0}, "images": {"other side missing": 0}}
    counts = {"captions": side, "images": side, "homologous": {"kept": 8, "dropped": lonely}}
    write_json(folder / "preferences" / "counts.json", counts)


def make_results(root: Path, config: Config) -> Layout:
    layout = Layout(root)
    ids = {}
    for split in ("pairs", "prompts"):
        rows = list(WORLD.make_pairs(split, PAIRS, config=config.data))
        write_pairs(layout.data(split), rows)
        ids[split] = [row["id"] for row in rows]
    write_table(layout.root / "data" / "rejected.csv", pd.DataFrame(columns=["split", "id", "record", "reason"]))
    torch.manual_seed(0)
    ShowOCodec(MagVitV2(config.image_tokenizer), config.data.image_size).save(layout.tokenizer)
    shares = {"images": 8, "captions accepted": 1.0, "questions right": 1.0, "wrong captions rejected": 0.875}
    judge = {"real images": {"all": shares}, "reconstructions": {"all": {**shares, "same scene": 0.5}}}
    write_json(layout.judge, judge)
    for seed in config.seeds:
        agreement = {"captions": {"bleu": {"kendall_tau": 0.5}}, "images": {}, "pairs": 8}
        write_json(layout.checkpoint(seed, "base") / "scores" / "agreement.json", agreement)
        for level, name in enumerate(("base", *config.checkpoints), start=1):
            folder = layout.checkpoint(seed, name)
            write_evaluation(folder / "evaluation", ids["prompts"], config, 0.2 * level)
            if name != "base":
                write_training(folder, ids["pairs"], config)
    return layout


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Config, Layout]:
    config = small()
    return config, make_results(tmp_path_factory.mktemp("results"), config)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_file_is_there_and_twice_the_same(results):
    config, layout = results
    report.run(config, layout, seeds=config.seeds)
    first = files(layout.report)
    expected = {"summary.json", "answer.md"}
    expected |= {f"tables/{name}.{suffix}" for name in TABLES for suffix in ("csv", "md", "tex")}
    expected |= {f"tables/{name}.{suffix}" for name in (*AUDITS, "statistics") for suffix in ("csv", "md")}
    expected |= {f"figures/{name}.png" for name in FIGURES}
    assert set(first) == expected
    report.run(config, layout)
    assert files(layout.report) == first
    gap = pd.read_csv(layout.report / "tables" / "table4_gap.csv")
    assert list(gap["checkpoint"][:5]) == ["base", *config.checkpoints]
    assert json.loads(first["summary.json"])["checkpoint"] == "pair-1"
    told = first["answer.md"].decode()
    assert "rejects 87.5 % of the captions with one fact wrong" in told and "reads 50.0 % of their recons" in told


def test_arms_are_compared_with_each_other(results):
    config, layout = results
    report.run(config, layout, seeds=config.seeds)
    statistics = pd.read_csv(layout.report / "tables" / "statistics.csv").set_index(["metric", "checkpoint", "against"])
    row = statistics.loc[("gap/same-judge/generation", "pair-1", "gen-1")]
    of_base = statistics.loc["gap/same-judge/generation"].xs("base", level="against")["delta"]
    assert row["delta"] == pytest.approx(of_base["pair-1"] - of_base["gen-1"]) and row["delta"] != 0
    found = json.loads((layout.report / "summary.json").read_bytes())["between arms"]
    assert {(one["checkpoint"], one["against"]) for one in found} == {("pair-1", "gen-1")}
    (generation,) = (one for one in found if one["metric"] == "gap/same-judge/generation")
    assert generation["delta_low"] == pytest.approx(row["delta_low"])
    assert generation["delta_low"] < generation["delta"] < generation["delta_high"]
    assert "less `gen-1` (objective generation)" in (layout.report / "answer.md").read_text()


def test_before_and_after_are_the_first_prompt_of_each_kind():
    ids, kinds = ["p0", "c0", "p1", "c1", "d0"], ["position", "colors", "position", "colors", "dense"]
    assert report.first_of_each(ids, kinds) == ["p0", "c0", "d0"]
    ids = [f"photo-{i}" for i in range(9)]
    assert report.first_of_each(ids, ["folder"] * 9) == ids[: report.EXAMPLES]


def test_captions_of_the_html_report_cover_every_file():
    known = {path.stem for path in (ROOT / "workflow" / "report").glob("*.rst")}
    assert {*TABLES, *AUDITS, *FIGURES, "statistics", "answer", "workflow"} <= known


@pytest.mark.parametrize("homologous", [0, 3])
def test_pairs_of_one_kind_alone_are_no_examples_of_both(results, tmp_path, homologous):
    """With preferences.pairs `any`; the images of the others are not there."""
    config, layout = results[0], Layout(Path(shutil.copytree(results[1].root, tmp_path / "results")))
    for name in config.checkpoints:
        folder = layout.checkpoint(0, name) / "preferences"
        table = pd.read_parquet(folder / "preferences.parquet")
        table.loc[homologous:, ["chosen_image_score", "rejected_image_score"]] = float("nan")
        write_table(folder / "preferences.parquet", table)
        ids, images = read_images(folder / "images.npy")
        form = image_form(config.data.image_size, config.image_tokenizer)
        write_images(folder / "images.npy", ids[:homologous], np.asarray(images)[:homologous], form)
    report.run(config, layout, seeds=(0,))
    assert (layout.report / "figures" / "preference_examples.png").stat().st_size > 0


def test_a_missing_evaluation_is_named(results, tmp_path):
    config, _ = results
    with pytest.raises(ArtifactError, match=r"base/evaluation/units\.parquet"):
        report.run(config, Layout(tmp_path), seeds=(0,))


def test_samples_of_other_prompts_are_refused():
    with pytest.raises(ArtifactError, match="`b`"):
        report.rows_of(["a"], np.zeros((1, 1, 4)), ["a", "b"])


def test_rows_are_joined_by_id_and_not_by_position():
    codes = np.arange(6).reshape(3, 1, 2)
    assert report.rows_of(["a", "b", "c"], codes, ["c", "a"])[:, 0].tolist() == [[4, 5], [0, 1]]


def test_spread_keeps_order_and_reaches_over_the_whole():
    items = [str(i) for i in range(100)]
    assert report.spread(items, 4) == ["0", "25", "50", "75"]
    assert report.spread(items[:3], 4) == ["0", "1", "2"]
