"""Stage `report` with the folders of real benchmarks: from units, values and facts to cells, notes and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.benchmarks import Benchmarks, Understanding
from hermesflow.config.experiment import Config
from hermesflow.config.judges import LocalVlm
from hermesflow.config.load import load_config
from hermesflow.config.sections import Source
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, write_json, write_table, write_weights
from hermesflow.core.images import write_images
from hermesflow.evaluation.benchmarks.coco import Coco
from hermesflow.evaluation.benchmarks.gap import Gap
from hermesflow.evaluation.benchmarks.geneval import GenEval
from hermesflow.evaluation.evaluated import UNIT_COLUMNS
from hermesflow.evaluation.metrics import GENEVAL_KINDS
from hermesflow.models.codecs import image_form
from hermesflow.stages import report
from hermesflow.tracking.results import Results
from tests.stages.test_stage_report import make_results
from tests.support.report_world import ROOT

Units = Mapping[str, list[float]]
KINDS = {
    "base": dict(zip(GENEVAL_KINDS, ([1, 1], [1, 0], [0, 0], [1, 0], [0, 0], [0, 0]), strict=True)),
    "pair-1": dict(zip(GENEVAL_KINDS, ([1, 1], [1, 1], [1, 0], [1, 0], [0, 0], [1, 0]), strict=True)),
}
"""Share of right images of two prompts of each kind."""
CLIP_SCORES = {"base": [30.0, 32.0], "pair-1": [31.0, 34.0]}
FID = {"base": 26.0, "pair-1": 25.5}
BOOTSTRAP = 40
GQA = {"base": [1, 0, 0, 1], "pair-1": [1, 1, 0, 1]}
JUDGE = {"base": ([1, 1, 0, 0], [1, 0, 0, 0]), "pair-1": ([1, 1, 0, 0], [1, 1, 0, 0])}
"""Right answers on real and on drawn images."""


def config_of() -> Config:
    config = load_config(ROOT / "config" / "smoke.yaml")
    source = Source(folder="weights/inception", files={"inception.safetensors": None})
    benchmarks = Benchmarks(
        geneval=GenEval(prompts="prompts.jsonl", detector="detector", clip="clip"),
        coco=Coco(captions="captions.csv", reference="reference.npz", inception=source, clip="clip"),
        understanding=Understanding(columns=("gqa",), batch_size=1),
        gap=Gap(judge=LocalVlm(kind="local", model="judge", cache="c")),
    )
    keep = {"pair-1": config.checkpoints["pair-1"]}
    evaluation = replace(config.evaluation, bootstrap=BOOTSTRAP)
    return replace(config, checkpoints=keep, evaluation=evaluation, benchmarks=benchmarks, seeds=(0,))


def units_of(pool: str, metrics: Units) -> pd.DataFrame:
    rows = [(metric, pool, f"i{i}", float(n), 1.0) for metric, some in metrics.items() for i, n in enumerate(some)]
    return pd.DataFrame(rows, columns=list(UNIT_COLUMNS))


def write_own(folder: Path, config: Config) -> None:
    """An evaluation without any judge: it keeps the samples it has and loses what only the micro world measures."""
    sides = {"gap/self/understanding": [1, 1, 0, 1], "gap/self/generation": [1, 0, 0, 1]}
    units = pd.concat([units_of("understanding", {"vqa": [1, 0], "cider": [0.5, 0.7]}), units_of("gap", sides)])
    write_table(folder / "units.parquet", units)
    write_weights(folder / "features.safetensors", {name: torch.zeros(0, 1) for name in ("generated", "real")})
    write_json(folder / "metrics.json", {"vqa": 0.5})
    ids = pd.read_parquet(folder.parents[2] / "data" / "prompts.parquet")["id"].tolist()
    codes = np.random.default_rng(0).integers(0, config.codebook_size, (len(ids), 1, config.num_image_tokens))
    write_images(folder / "samples.npy", ids, codes, image_form(config.data.image_size, config.image_tokenizer))


def write_benchmark(folder: Path, units: pd.DataFrame, values: Mapping[str, float], **facts: object) -> None:
    write_table(folder / "units.parquet", units)
    resampled = {metric: [one + 1, one + 3] * (BOOTSTRAP // 2) for metric, one in values.items()}
    whole = {metric: {"value": one, "items": 2, "replicates": resampled[metric]} for metric, one in values.items()}
    write_json(folder / "values.json", whole)
    write_json(folder / "facts.json", {"protocol": "as it is", "scorers": {}, "items": 2, **facts})


def write_benchmarks(layout: Layout, name: str) -> None:
    kinds = [units_of(f"geneval/{kind}", {f"geneval/{kind}": some}) for kind, some in KINDS[name].items()]
    scorers = {"detector": "facebook/mask2former@abc", "clip": "openai/clip@def"}
    write_benchmark(layout.benchmark(0, name, "geneval"), pd.concat(kinds), {}, scorers=scorers, items=12)
    clip = units_of("fid", {"clip_score": CLIP_SCORES[name]})
    write_benchmark(layout.benchmark(0, name, "coco"), clip, {"fid": FID[name]})
    write_benchmark(layout.benchmark(0, name, "gqa"), units_of("gqa", {"gqa": GQA[name]}), {})
    sides = {
        f"gap/{protocol}/{side}": right
        for protocol in ("paper", "same-judge")
        for side, right in zip(("understanding", "generation"), JUDGE[name], strict=True)
    }
    write_benchmark(layout.benchmark(0, name, "gap"), units_of("gap", sides), {}, models=["judge"], questions=4)


@pytest.fixture
def results(tmp_path) -> tuple[Config, Layout]:
    config = config_of()
    layout = make_results(tmp_path / "results" / "smoke", config)
    for name in ("base", "pair-1"):
        write_own(layout.checkpoint(0, name) / "evaluation", config)
        write_benchmarks(layout, name)
    return config, layout


def cells(layout: Layout, table: str) -> pd.DataFrame:
    return pd.read_csv(layout.report / "tables" / f"{table}.csv")


def test_cells_notes_and_metrics_of_runs_have_what_the_folders_hold(results):
    config, layout = results
    report.run(config, layout)
    generation = cells(layout, "table2_generation").set_index("model")
    # base: 1, 1/2, 0, 1/2, 0, 0; pair-1: 1, 1, 1/2, 1/2, 0, 1/2
    assert generation.loc[["base", "pair-1"], "overall"].tolist() == pytest.approx([2 / 6, 3.5 / 6], abs=1e-6)
    assert generation.loc["pair-1", "overall_delta"] == pytest.approx(1.5 / 6)
    fidelity = cells(layout, "table3_fidelity").set_index("model")
    assert fidelity.loc["pair-1", ["fid", "fid_delta", "clip_score"]].tolist() == [25.5, -0.5, 32.5]
    ends = fidelity.loc["pair-1", ["fid_low", "fid_high", "fid_delta_low", "fid_delta_high"]].tolist()
    assert ends == [24.5, 26.5, -0.5, -0.5]  # resamples are 1 and 3 above the value, shifted by their mean
    understanding = cells(layout, "table1_understanding").set_index("model")
    assert understanding.loc["pair-1", ["gqa", "vqa", "cider"]].tolist() == [75, 50, 60]
    gap = cells(layout, "table4_gap").set_index(["checkpoint", "protocol"])["gap"]
    assert gap["base", "paper"] == 0.25 and gap["pair-1", "same-judge"] == 0 and gap["base", "self"] == 0.25
    text = (layout.report / "tables" / "table2_generation.md").read_text()
    line = "geneval: as it is; by clip openai/clip@def, detector facebook/mask2former@abc; 12 items; run seeds 0."
    assert f"- {line}\n" in text
    assert "`benchmarks.dpg` fills" in text and "`benchmarks.geneval` fills" not in text
    assert "models judge; questions 4." in (layout.report / "tables" / "table4_gap.md").read_text()
    claims = {claim["protocol"] for claim in read_json(layout.report / "summary.json")["claims"]}
    assert claims == {"paper", "same-judge", "self"}

    base, pair = (Results(layout, 0, name, {}).figures() for name in ("base", "pair-1"))
    logged = {(name, point[0]): point[1] for name, points in (("base", base), ("pair-1", pair)) for point in points}
    assert logged["pair-1", "geneval/overall"] == pytest.approx(3.5 / 6)
    assert logged["base", "fid"] == 26.0 and logged["base", "gap/paper/gap"] == 0.25


def test_a_benchmark_that_was_not_run_is_named(results):
    config, layout = results
    (layout.benchmark(0, "pair-1", "gqa") / "values.json").unlink()
    with pytest.raises(ArtifactError, match=r"pair-1/benchmarks/gqa/values\.json"):
        report.run(config, layout)


def test_checkpoints_graded_by_other_scorers_are_refused(results):
    config, layout = results
    path = layout.benchmark(0, "pair-1", "geneval") / "facts.json"
    write_json(path, read_json(path) | {"scorers": {"detector": "another"}})
    with pytest.raises(ArtifactError, match=r"pair-1/benchmarks/geneval/facts\.json: `scorers`"):
        report.run(config, layout)


def test_folders_of_a_section_that_was_removed_are_not_read(results):
    config, layout = results
    without = replace(config, benchmarks=replace(config.benchmarks, coco=None))
    assert [f.name for f in report.benchmark_folders(without, layout, 0, "base")] == [
        "geneval",
        "gap",
        "gqa",
    ]
    assert report.benchmark_folders(replace(config, benchmarks=None), layout, 0, "base") == ()
