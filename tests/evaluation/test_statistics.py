from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import write_json, write_table, write_weights
from hermesflow.evaluation import bootstrap, metrics
from hermesflow.evaluation.bootstrap import COLUMNS, estimate, point_values, resample_counts, summarise
from hermesflow.evaluation.evaluated import (
    FEATURES,
    UNIT_COLUMNS,
    UNITS,
    VALUES,
    Evaluated,
    Whole,
    read_evaluated,
    read_values,
)
from hermesflow.evaluation.frechet import frechet_distance, frechet_distances


def units(metric: str, numerators, denominators=None, pool: str = "gap") -> pd.DataFrame:
    denominators = np.ones(len(numerators)) if denominators is None else denominators
    ids = [f"{pool}-{i:05d}" for i in range(len(numerators))]
    return pd.DataFrame(
        dict(zip(UNIT_COLUMNS, (metric, pool, ids, np.asarray(numerators, float), denominators), strict=True))
    )


def evaluated(*tables: pd.DataFrame) -> Evaluated:
    return Evaluated(pd.concat(tables, ignore_index=True), np.zeros((0, 2)), np.zeros((2, 2)))


def write(folder: Path, *tables: pd.DataFrame, generated=None, real=None) -> Path:
    write_table(folder / UNITS, pd.concat(tables, ignore_index=True))
    features = {"generated": generated, "real": real}
    write_weights(
        folder / FEATURES,
        {k: torch.zeros(2, 2) if v is None else torch.as_tensor(v, dtype=torch.float32) for k, v in features.items()},
    )
    return folder


def test_a_figure_is_the_ratio_of_sums_not_the_mean_of_ratios():
    assert point_values(evaluated(units("vqa", [1, 9], [1, 10]))) == {"vqa": pytest.approx(10 / 11)}


@pytest.mark.parametrize("column", ["numerator", "denominator"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_units_that_are_not_finite_are_refused_with_file_and_record(tmp_path, column, wrong):
    """A numerator that was nan counted as 0, and its denominator as ever."""
    table = units("vqa", [1, 1, 1])
    table.loc[1, column] = wrong
    write(tmp_path, table)
    with pytest.raises(ArtifactError, match=rf"units\.parquet: `{column}` is nan.* first in .*gap-00001"):
        read_evaluated(tmp_path)


def test_features_that_are_not_finite_are_refused(tmp_path):
    write(tmp_path, units("vqa", [1]))
    save_file({"generated": torch.tensor([[1.0, np.nan]]), "real": torch.zeros(2, 2)}, tmp_path / FEATURES)
    with pytest.raises(ArtifactError, match=r"features\.safetensors: tensor `generated` holds 1 values"):
        read_evaluated(tmp_path)


def test_a_metric_without_positives_is_zero():
    assert point_values(evaluated(units("pope/random/f1", [0, 0], [0, 0])))["pope/random/f1"] == 0


def test_compositions_by_hand():
    tables = [units(f"mme/{t}", [v]) for t, v in zip(metrics.MME_TASKS, (200, 150, 100, 30), strict=True)]
    tables += [units(f"pope/{s}/f1", [v]) for s, v in zip(metrics.POPE_SPLITS, (0.9, 0.6, 0.3), strict=True)]
    tables += [units("gap/paper/understanding", [0.9]), units("gap/paper/generation", [0.7])]
    values = point_values(evaluated(*tables))
    assert values["mme/total"] == pytest.approx(480)
    assert values["pope/f1"] == pytest.approx(0.6)
    assert values["gap/paper/gap"] == pytest.approx(0.2)
    assert "geneval/overall" not in values  # its parts are not there
    assert estimate(evaluated(*tables), resamples=0).items.dtype == np.int64


def test_a_unit_without_a_metric_counts_neither_above_nor_below_the_line():
    one = estimate(evaluated(units("vqa", [1, 2, 6], [2, 4, 8]), units("mme/count", [1, 1], [2, 4])), resamples=3)
    assert dict(zip(one.metrics, one.values, strict=True)) == {"mme/count": 2 / 6, "vqa": 9 / 14}
    assert dict(zip(one.metrics, one.items, strict=True)) == {"mme/count": 2, "vqa": 3}


def test_pools_of_one_size_are_resampled_independently():
    """Else what is hard in one benchmark would be drawn together with what stands in the same row of another."""
    numerators = np.arange(12)
    one = estimate(evaluated(units("a", numerators), units("b", numerators, pool="other")), resamples=20)
    assert one.values[0] == one.values[1] and not np.array_equal(one.replicates[:, 0], one.replicates[:, 1])
    seeds = resample_counts("seeds/12", 12, resamples=20)
    assert not np.array_equal(seeds, resample_counts("gap", 12, resamples=20))


def test_nothing_evaluated_is_an_empty_table():
    table = summarise({}, resamples=5, confidence=0.95)
    assert tuple(table.columns) == COLUMNS and table.empty


def test_counts_are_a_resample_and_repeat_themselves():
    counts = resample_counts("gap", 40, resamples=30)
    assert counts.shape == (30, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert np.array_equal(counts, resample_counts("gap", 40, resamples=30))
    assert not np.array_equal(counts, resample_counts("prompts", 40, resamples=30))


def test_replicates_keep_all_questions_of_a_unit_together():
    # one unit holds 100 right answers, one 100 wrong ones: a resample can only give 0, 1/2 or 1
    drawn = estimate(evaluated(units("vqa", [100, 0], [100, 100])), resamples=200).replicates[:, 0]
    assert set(np.unique(drawn)) == {0.0, 0.5, 1.0}


def test_standard_error_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    drawn = estimate(evaluated(units("cider", values)), resamples=4000).replicates[:, 0]
    assert drawn.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        sample = evaluated(units("vqa", generator.random(60) < 0.7))
        drawn = estimate(sample, resamples=200)
        low, high = bootstrap._interval(drawn.values, drawn.replicates, 0.9)
        hits += low[0] <= 0.7 <= high[0]
    assert 0.84 < hits / 300 < 0.95


def paired_folders(tmp_path: Path, seeds=(0,)) -> dict[str, dict[int, Path]]:
    generator = np.random.default_rng(2)
    difficulty = generator.random(300)
    return {
        name: {
            seed: write(
                tmp_path / name / str(seed), units("vqa", difficulty + shift + 0.02 * generator.normal(size=300))
            )
            for seed in seeds
        }
        for name, shift in (("base", 0.0), ("pair-1", 0.05))
    }


def test_pairing_narrows_the_interval(tmp_path):
    table = summarise(paired_folders(tmp_path), resamples=400, confidence=0.95).set_index("checkpoint")
    row = table.loc["pair-1"]
    unpaired = np.hypot(row["high"] - row["low"], table.loc["base", "high"] - table.loc["base", "low"])
    assert row["delta_high"] - row["delta_low"] < unpaired / 5
    assert row["delta_low"] < 0.05 < row["delta_high"]
    assert row["delta_low"] > 0  # while the unpaired intervals overlap
    assert row["low"] < table.loc["base", "high"]


def test_table_has_its_columns_and_no_difference_of_base_from_itself(tmp_path):
    table = summarise(paired_folders(tmp_path), resamples=20, confidence=0.95)
    assert tuple(table.columns) == COLUMNS
    assert table.loc[table["checkpoint"] == "base", "delta"].isna().all()
    assert (table["items"] == 300).all() and (table["seeds"] == 1).all()
    assert table.index.is_unique and table["items"].dtype == np.int64 and table["delta"].dtype == np.float64
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_arms_are_compared_with_each_other_as_with_base(tmp_path):
    folders = paired_folders(tmp_path, seeds=(0, 1))
    difference = {0: 0.03, 1: 0.05}  # on every prompt alike, so a seed's difference has no spread over prompts
    folders["sft-1"] = {
        seed: write(
            tmp_path / "sft-1" / str(seed),
            read_evaluated(folder).units.assign(numerator=lambda t, less=difference[seed]: t["numerator"] - less),
        )
        for seed, folder in folders["pair-1"].items()
    }
    pairs = [("pair-1", "sft-1"), ("sft-1", "pair-1")]
    table = summarise(folders, resamples=400, confidence=0.95, pairs=pairs).set_index(["checkpoint", "against"])
    row, other = table.loc[("pair-1", "sft-1")], table.loc[("sft-1", "pair-1")]
    assert row["delta"] == pytest.approx(0.04)  # and its spread is that of drawing two seeds with repeats
    assert row[["delta_low", "delta_high"]].tolist() == pytest.approx([0.03, 0.05], abs=0.002)
    assert other[["delta", "delta_low", "delta_high"]].tolist() == pytest.approx([-0.04, -0.05, -0.03], abs=0.002)
    of_base = table.loc[[("pair-1", "base"), ("sft-1", "base")], "delta"]
    assert row["delta"] == pytest.approx(of_base.iloc[0] - of_base.iloc[1])
    assert row["value"] == table.loc[("pair-1", "base"), "value"]
    without = summarise(folders, resamples=400, confidence=0.95)
    pd.testing.assert_frame_equal(table.reset_index()[without.columns][: len(without)], without, check_exact=True)


def test_same_table_twice(tmp_path):
    folders = paired_folders(tmp_path, seeds=(0, 1))
    first = summarise(folders, resamples=50, confidence=0.95)
    pd.testing.assert_frame_equal(first, summarise(folders, resamples=50, confidence=0.95), check_exact=True)


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    values = np.random.default_rng(3).random(300)
    agree = {s: write(tmp_path / "agree" / str(s), units("vqa", values)) for s in range(3)}
    differ = {s: write(tmp_path / "differ" / str(s), units("vqa", values + 0.3 * (s - 1))) for s in range(3)}
    table = summarise({"agree": agree, "differ": differ}, resamples=400, confidence=0.95).set_index("checkpoint")
    assert table.loc["agree", "value"] == pytest.approx(table.loc["differ", "value"])
    width = table["high"] - table["low"]
    assert width["differ"] > 3 * width["agree"]
    # prompts are crossed with seeds: three equal seeds are no more evidence than one
    one = summarise({"agree": {0: agree[0]}}, resamples=400, confidence=0.95).iloc[0]
    assert width["agree"] == pytest.approx(one["high"] - one["low"], rel=1e-9)


def test_difference_is_taken_over_the_seeds_both_have(tmp_path):
    folders = {
        "base": {s: write(tmp_path / "base" / str(s), units("vqa", np.full(10, 0.1 * s))) for s in (0, 1)},
        "ablation": {1: write(tmp_path / "ablation" / "1", units("vqa", np.full(10, 0.5)))},
    }
    row = summarise(folders, resamples=20, confidence=0.95).set_index("checkpoint").loc["ablation"]
    assert row["delta"] == pytest.approx(0.4)
    assert row["seeds"] == 1


def test_frechet_replicates_are_made_by_the_formula_of_torchmetrics():
    generator = np.random.default_rng(4)
    real, generated = generator.normal(size=(80, 6)), generator.normal(size=(50, 6)) @ np.diag(np.arange(1, 7)) + 0.5
    own = frechet_distances(np.ones((1, 50)), generated, real)[0]
    assert own == pytest.approx(frechet_distance(generated, real), rel=1e-9)


def test_frechet_distance_of_a_shift_is_its_square():
    real = np.random.default_rng(5).normal(size=(100, 3))
    assert frechet_distances(np.ones((1, 100)), real + np.array([3.0, 0.0, 4.0]), real)[0] == pytest.approx(25)


def test_counts_weigh_like_repeated_rows():
    generator = np.random.default_rng(6)
    real, generated = generator.normal(size=(60, 4)), generator.normal(size=(30, 4))
    counts = generator.multinomial(30, np.full(30, 1 / 30), size=1).astype(float)
    repeated = np.repeat(generated, counts[0].astype(int), axis=0)
    assert frechet_distances(counts, generated, real)[0] == pytest.approx(
        frechet_distances(np.ones((1, 30)), repeated, real)[0]
    )


def test_frechet_interval_holds_its_value_in_spite_of_resampling_bias(tmp_path):
    generator = np.random.default_rng(7)
    generated, real = generator.normal(size=(60, 8)), generator.normal(size=(200, 8))
    folder = write(tmp_path, units("clip_score", np.full(60, 30.0), pool="fid"), generated=generated, real=real)
    raw = estimate(read_evaluated(folder), resamples=100).replicates[:, 1]
    table = summarise({"base": {0: folder}}, resamples=100, confidence=0.95).set_index("metric")
    row = table.loc["fid"]
    assert raw.mean() > 1.2 * row["value"]
    assert row["low"] < row["value"] < row["high"]
    assert table["items"].tolist() == [60, 60]


def test_other_prompts_are_refused(tmp_path):
    folders = {
        "base": {0: write(tmp_path / "a", units("vqa", [1, 0, 1]))},
        "pair-1": {0: write(tmp_path / "b", units("vqa", [1, 0, 1, 1]))},
    }
    with pytest.raises(ArtifactError, match="rests on other prompts"):
        summarise(folders, resamples=5, confidence=0.95)


def test_missing_features_are_named(tmp_path):
    folder = write(tmp_path, units("vqa", [1]))
    (folder / FEATURES).unlink()
    with pytest.raises(ArtifactError, match=r"features\.safetensors"):
        summarise({"base": {0: folder}}, resamples=5, confidence=0.95)


def benchmark(folder: Path, *tables: pd.DataFrame, values=None) -> Path:
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(UNIT_COLUMNS))
    write_table(folder / UNITS, rows)
    write_json(folder / VALUES, {name: asdict(one) for name, one in (values or {}).items()})
    return folder


def whole(value: float, *replicates: float) -> Whole:
    """A figure of four units, and its resamples."""
    return Whole(value, 4, replicates)


def beside(tmp_path: Path, **found: list[Path]) -> tuple[dict, dict]:
    """Evaluation folders of one seed with one metric, and the benchmarks beside them."""
    own = {name: {0: write(tmp_path / name / "evaluation", units("vqa", [1, 0]))} for name in found}
    return own, {name: {0: folders} for name, folders in found.items()}


def test_units_of_benchmarks_stand_beside_those_of_the_evaluation(tmp_path):
    folders, benchmarks = beside(
        tmp_path,
        base=[benchmark(tmp_path / "a", units("gqa", [1, 0, 1, 1], pool="gqa"))],
        pair=[benchmark(tmp_path / "b", units("gqa", [1, 1, 1, 1], pool="gqa"))],
    )
    table = summarise(folders, benchmarks, resamples=50, confidence=0.95).set_index(["checkpoint", "metric"])
    assert table.loc[("base", "gqa"), "value"] == 0.75
    assert table.loc[("pair", "gqa"), "delta"] == 0.25
    assert table.loc[("pair", "gqa"), "items"] == 4 and table.loc[("pair", "vqa"), "items"] == 2
    assert table.loc[("pair", "vqa"), "delta"] == 0


def test_figures_of_all_units_are_means_over_seeds_with_intervals_of_their_resamples(tmp_path):
    """One seed: quantiles at 2.5 and 97.5 % of 20, 22, 24, 26 shifted to a mean of 20; all changes are one less."""
    resampled = {"base": (20, 20.0, 22.0, 24.0, 26.0), "pair": (18, 19.0, 21.0, 23.0, 25.0)}
    folders = {n: {0: write(tmp_path / n / "0", units("vqa", [1, 0]))} for n in resampled}
    benchmarks = {
        n: {0: [benchmark(tmp_path / n / "coco", values={"fid": whole(*own)})]} for n, own in resampled.items()
    }
    table = summarise(folders, benchmarks, resamples=4, confidence=0.95).set_index(["checkpoint", "metric"])
    base, pair = table.loc[("base", "fid")], table.loc[("pair", "fid")]
    assert (base["value"], base["items"], base["seeds"]) == (20, 4, 1) and table["items"].dtype == np.int64
    assert base[["low", "high"]].tolist() == pytest.approx([17 + 0.025 * 3 * 2, 23 - 0.025 * 3 * 2])
    assert pair[["delta", "delta_low", "delta_high"]].tolist() == pytest.approx([-2, -2, -2])
    folders = {n: {s: write(tmp_path / n / str(s), units("vqa", [1, 0])) for s in (0, 1)} for n in resampled}
    fids = {"base": (20.0, 24.0), "pair": (18.0, 20.0)}
    benchmarks = {name: {} for name in fids}
    for name, own in fids.items():
        for seed, fid in enumerate(own):
            folder = tmp_path / name / f"coco{seed}"
            benchmarks[name][seed] = [benchmark(folder, values={"fid": whole(fid, fid, fid)})]
    table = summarise(folders, benchmarks, resamples=2, confidence=0.95).set_index(["checkpoint", "metric"])
    assert table.loc[("base", "fid"), "value"] == 22  # (20 + 24) / 2
    assert table.loc[("pair", "fid"), ["value", "delta", "seeds"]].tolist() == [19, -3, 2]  # (-2 - 4) / 2


def test_another_number_of_resamples_is_refused(tmp_path):
    folders, benchmarks = beside(tmp_path, base=[benchmark(tmp_path / "coco", values={"fid": whole(9, 8.0, 9.0)})])
    with pytest.raises(ArtifactError, match=r"`fid` was resampled 2 times .*evaluation\.bootstrap is 5"):
        summarise(folders, benchmarks, resamples=5, confidence=0.95)


def test_image_text_score_of_a_benchmark_needs_no_features(tmp_path):
    scores, fid = units("clip_score", [30, 32], pool="fid"), whole(9.5, *range(5))
    folders, benchmarks = beside(tmp_path, base=[benchmark(tmp_path / "coco", scores, values={"fid": fid})])
    table = summarise(folders, benchmarks, resamples=5, confidence=0.95).set_index("metric")["value"]
    assert table.to_dict() == {"vqa": 0.5, "clip_score": 31, "fid": 9.5}


def test_compositions_are_made_of_parts_in_one_folder(tmp_path):
    halves = [
        units(f"mme/{category}/{half}", [value], pool="mme")
        for category in metrics.MME_FULL["perception"]
        for half, value in (("accuracy", 80), ("accuracy_plus", 60))
    ]
    folder = benchmark(tmp_path / "mme", *halves)
    values = point_values(read_evaluated(write(tmp_path / "evaluation", units("vqa", [1])), [folder]))
    assert values["mme/perception"] == pytest.approx(1400)  # ten categories of 80 + 60
    assert "mme/cognition" not in values


@pytest.mark.parametrize("values", [None, {"fid": whole(9.0, *range(5))}], ids=["units", "values"])
def test_a_benchmark_that_a_checkpoint_lacks_is_refused(tmp_path, values):
    tables = [units("gqa", [1.0], pool="gqa")] if values is None else []
    folders, benchmarks = beside(tmp_path, base=[benchmark(tmp_path / "a", *tables, values=values)], pair=[])
    with pytest.raises(ArtifactError, match=r"pair/evaluation.*`(gqa|fid)`.*not in both"):
        summarise(folders, benchmarks, resamples=5, confidence=0.95)


def test_one_metric_in_two_folders_is_refused(tmp_path):
    own = write(tmp_path / "evaluation", units("gqa", [1]))
    with pytest.raises(ArtifactError, match=r"beside: measures `gqa`"):
        read_evaluated(own, [benchmark(tmp_path / "beside", units("gqa", [1]))])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"fid": 9.0}', "`fid`: .*object .got 9.0"),
        ('{"fid": {"value": "9", "items": 2, "replicates": []}}', "`fid/value`: .*valid number .got '9'"),
        ('{"fid": {"value": 9, "items": 2, "replicates": [1, NaN]}}', "`fid/replicates/1`: .*finite number .got nan"),
        ("[9]", "an object .got"),
    ],
)
def test_values_that_are_no_numbers_are_refused(tmp_path, content, match):
    (tmp_path / "values.json").write_text(content)
    with pytest.raises(ArtifactError, match=rf"values\.json.*{match}"):
        read_values(tmp_path / "values.json")
