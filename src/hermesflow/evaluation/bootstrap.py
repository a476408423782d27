"""Bootstrap intervals of every benchmark figure, and of its differences between checkpoints, which are paired.

A benchmark leaves one row per resampling unit (an image or a prompt: everything asked about one image, or drawn from
one prompt, stays together) with a numerator and a denominator; its figure is the ratio of their sums. Resampling is
then a product of a matrix of counts with these rows. The Frechet distance is the only figure that is not such a ratio:
a checkpoint's value is torchmetrics', the resampled ones come from weighted moments of the same features by the same
formula.

Prompts are the same for all seeds, so seeds and prompts are crossed: each resample draws seeds and, independently,
one set of prompts which all of its seeds share (Owen 2007, "The pigeonhole bootstrap"). Drawing prompts anew within
each seed would treat what is hard about a prompt as independent between seeds and give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hermesflow.config.experiment import BASE
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import digest_of
from hermesflow.core.seeding import seed_of
from hermesflow.evaluation.evaluated import Evaluated, Whole, read_evaluated
from hermesflow.evaluation.frechet import frechet_distance, frechet_distances
from hermesflow.evaluation.metrics import compositions

COLUMNS = (
    "checkpoint", "metric", "value", "low", "high", "delta", "delta_low", "delta_high", "items", "seeds", "against",
)  # fmt: skip

FIDELITY_POOL = "fid"
"""The prompts whose drawn images are compared with real ones; rows of features are in order of their ids."""


@dataclass(frozen=True)
class Estimate:
    """Point values and replicates of the metrics of one checkpoint and seed."""

    metrics: tuple[str, ...]
    values: np.ndarray
    """(M,)"""
    replicates: np.ndarray
    """(R, M)"""
    items: np.ndarray
    """(M,) number of units behind each metric."""
    designs: Mapping[str, str]
    """Digest of the units each metric rests on; metrics of equal designs can be paired."""


def resample_counts(pool: str, units: int, *, resamples: int) -> np.ndarray:
    """How often each unit of a pool is drawn in each resample.

    The counts depend on the name of the pool and its size alone, so all checkpoints and seeds see the same resamples:
    that is what pairs them.

    Returns:
        (R, U) float64; each row adds up to U.
    """
    generator = np.random.default_rng(seed_of("bootstrap", pool))
    return generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Elementwise ratio, 0 where the denominator is 0 (an F1 without any positive)."""
    return np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators != 0)


def estimate(evaluated: Evaluated, *, resamples: int) -> Estimate:
    """Point values and bootstrap replicates of all metrics of one checkpoint and seed."""
    names: list[str] = []
    points: list[np.ndarray] = []
    replicates: list[np.ndarray] = []
    items: list[np.ndarray] = []
    for pool, rows in evaluated.units.groupby("pool", sort=True):
        counts = resample_counts(str(pool), rows["id"].nunique(), resamples=resamples)
        counts = np.concatenate([np.ones((1, counts.shape[1])), counts])  # row 0: the sample itself
        wide = rows.pivot(index="id", columns="metric", values=["numerator", "denominator"]).sort_index()
        metrics = sorted(rows["metric"].unique())
        denominators = wide["denominator"][metrics]
        values = ratio(
            counts @ wide["numerator"][metrics].fillna(0.0).to_numpy(np.float64),
            counts @ denominators.fillna(0.0).to_numpy(np.float64),
        )
        sizes = denominators.notna().to_numpy().sum(axis=0)
        if pool == FIDELITY_POOL and len(evaluated.generated):
            distances = frechet_distances(counts, evaluated.generated, evaluated.real)
            metrics, values = [*metrics, "fid"], np.column_stack([values, distances])
            sizes = np.append(sizes, counts.shape[1])
        names += metrics
        points.append(values[0])
        replicates.append(values[1:])
        items.append(sizes)
    designs = {
        str(metric): digest_of(sorted(map(list, rows[["pool", "id"]].itertuples(index=False))))
        for metric, rows in evaluated.units.groupby("metric")
    }
    simple = Estimate(
        tuple(names), np.concatenate(points), np.concatenate(replicates, axis=1), np.concatenate(items), designs
    )
    return _with_values(_compose(simple), evaluated.values)


def point_values(evaluated: Evaluated) -> dict[str, float]:
    """Every metric of one checkpoint and seed, without intervals."""
    estimates = estimate(evaluated, resamples=0)
    values = {name: float(value) for name, value in sorted(zip(estimates.metrics, estimates.values, strict=True))}
    if "fid" in values and "fid" not in evaluated.values:
        values["fid"] = frechet_distance(evaluated.generated, evaluated.real)
    return values


def summarise(
    folders: Mapping[str, Mapping[int, Path]],
    benchmarks: Mapping[str, Mapping[int, Sequence[Path]]] | None = None,
    *,
    resamples: int,
    confidence: float,
    baseline: str = BASE,
    pairs: Sequence[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Value, interval and paired difference from the baseline of every metric of every checkpoint.

    A difference is taken resample by resample: both checkpoints meet the same draws of prompts and of seeds.

    Intervals are percentiles of the replicates, shifted so that their mean is the point value: for means the shift is
    next to nothing; for the Frechet distance it removes the upward bias that resampling with repeats brings.

    Args:
        folders: checkpoint -> seed -> evaluation folder.
        benchmarks: checkpoint -> seed -> folders of its real benchmarks; None where there are none.
        resamples: bootstrap resamples.
        confidence: in (0, 1), e.g. 0.95.
        baseline: checkpoint that differences are taken from, over the seeds both have; its own are NaN.
        pairs: two checkpoints whose difference, first less second, has rows of its own behind the others.

    Returns:
        One row per (checkpoint, metric, against): COLUMNS. `items`: resampled images or prompts; `seeds`: their
        number; `against`: the checkpoint that `delta` is the difference from.

    Raises:
        ArtifactError: a folder is unreadable, its prompts are not those of the others, or it was resampled another
            number of times.
    """
    estimates = {
        (name, seed): estimate(
            read_evaluated(folder, (benchmarks or {}).get(name, {}).get(seed, ())), resamples=resamples
        )
        for name, seeds in folders.items()
        for seed, folder in sorted(seeds.items())
    }
    _check_same_design(estimates, folders)
    rows: list[pd.DataFrame] = []
    for name, other in [*((name, baseline) for name in folders), *pairs]:
        seed_estimates = [estimates[name, seed] for seed in sorted(folders[name])]
        shared = [seed for seed in sorted(folders[name]) if name != other and seed in folders.get(other, {})]
        value, replicates = _over_seeds([e.values for e in seed_estimates], [e.replicates for e in seed_estimates])
        low, high = _interval(value, replicates, confidence)
        delta = delta_low = delta_high = np.full(len(value), np.nan)
        if shared:
            both = [(estimates[name, seed], estimates[other, seed]) for seed in shared]
            delta, replicates = _over_seeds(
                [a.values - b.values for a, b in both], [a.replicates - b.replicates for a, b in both]
            )
            delta_low, delta_high = _interval(delta, replicates, confidence)
        columns = (
            name,
            seed_estimates[0].metrics,
            value,
            low,
            high,
            delta,
            delta_low,
            delta_high,
            seed_estimates[0].items,
            len(seed_estimates),
            other,
        )
        rows.append(pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=list(COLUMNS))


def _compose(simple: Estimate) -> Estimate:
    place = {name: i for i, name in enumerate(simple.metrics)}
    composites = {name: parts for name, parts in compositions().items() if all(part in place for part in parts)}
    mixing = np.zeros((len(place), len(composites)))
    items = np.zeros(len(composites), dtype=np.int64)
    for column, parts in enumerate(composites.values()):
        for part, weight in parts.items():
            mixing[place[part], column] = weight
        items[column] = max(simple.items[place[part]] for part in parts)
    return Estimate(
        (*simple.metrics, *composites),
        np.concatenate([simple.values, simple.values @ mixing]),
        np.concatenate([simple.replicates, simple.replicates @ mixing], axis=1),
        np.concatenate([simple.items, items]),
        simple.designs,
    )


def _with_values(composed: Estimate, values: Mapping[str, Whole]) -> Estimate:
    """Figures of all units put behind the others."""
    if not values:
        return composed
    resamples = len(composed.replicates)
    columns = [_replicates(metric, one, resamples) for metric, one in values.items()]
    return Estimate(
        (*composed.metrics, *values),
        np.concatenate([composed.values, [one.value for one in values.values()]]),
        np.concatenate([composed.replicates, np.column_stack(columns)], axis=1),
        np.concatenate([composed.items, np.array([one.items for one in values.values()], dtype=np.int64)]),
        {**composed.designs, **{metric: str(one.items) for metric, one in values.items()}},
    )


def _replicates(metric: str, one: Whole, resamples: int) -> np.ndarray:
    if resamples and len(one.replicates) != resamples:
        raise ArtifactError(
            f"`{metric}` was resampled {len(one.replicates):,} times when it was graded, and evaluation.bootstrap is "
            f"{resamples:,}. Run snakemake: it grades anew."
        )
    return np.array(one.replicates[:resamples])


def _over_seeds(values: Sequence[np.ndarray], replicates: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, and replicates that also resample the seeds: (M,), (R, M)."""
    counts = resample_counts(f"seeds/{len(values)}", len(values), resamples=len(replicates[0]))
    means = np.einsum("rs,srm->rm", counts / len(values), np.stack(replicates))
    return np.mean(values, axis=0), means


def _interval(value: np.ndarray, replicates: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    centred = replicates - replicates.mean(axis=0) + value
    tail = (1 - confidence) / 2
    low, high = np.quantile(centred, [tail, 1 - tail], axis=0)
    return low, high


def _check_same_design(
    estimates: Mapping[tuple[str, int], Estimate], folders: Mapping[str, Mapping[int, Path]]
) -> None:
    first = next(iter(estimates.values()), None)
    for (name, seed), one in estimates.items():
        assert first is not None
        apart = sorted(m for m in {*first.designs, *one.designs} if first.designs.get(m) != one.designs.get(m))
        if apart:
            raise ArtifactError(
                f"{folders[name][seed]}, or a benchmark beside it: `{apart[0]}` rests on other prompts than in the "
                f"first evaluation given, or is not in both ({len(apart)} metrics in all), so it cannot be compared "
                "with it. Evaluate all checkpoints with one config."
            )
