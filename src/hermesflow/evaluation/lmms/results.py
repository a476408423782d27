"""lmms-eval's samples of one checkpoint as rows per picture and as the figures of the paper's Table 1.

lmms-eval's own scorers make every figure; the rows come from its samples (`LmmsBenchmark.rows`), and a figure that the
rows do not add up to is an error.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pandas as pd

from hermesflow.core.errors import ArtifactError
from hermesflow.evaluation.lmms.run import AGAIN, Row, Run
from hermesflow.evaluation.metrics import compositions
from hermesflow.evaluation.registry import benchmark_of, lmms_benchmarks
from hermesflow.evaluation.worlds.understanding import units_table

TOLERANCE = 1e-4  # lmms-eval rounds MMMU to five places


def run_units(run: Run) -> pd.DataFrame:
    """Numerators and denominators per picture of every benchmark of a run: UNIT_COLUMNS.

    Shares are between 0 and 1, CIDEr is pycocoevalcap's (the paper prints it times 100), MME's figures are times 100.

    Raises:
        ArtifactError: a sample has another form, or the rows do not add up to lmms-eval's own figure.
    """
    rows: list[Row] = []
    for task, samples in run.samples.items():
        one = benchmark_of(task)
        if one is None or not one.tasks[task].figures:
            continue
        try:
            rows += one.rows(run, task, samples)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{run.folder}: a sample of {task} is not of lmms-eval 0.7.3's form ({error!r}). {AGAIN}"
            ) from error
    units = units_table(_by_image(rows))
    _check(run, figures_of(units))
    return units


def figures_of(units: pd.DataFrame) -> dict[str, float]:
    """Every figure of the table, by metric: ratios of sums, and what is composed of them.

    A precision without any "yes", and the like, is 0, as lmms-eval has it.
    """
    sums = units.groupby("metric", sort=True)[["numerator", "denominator"]].sum()
    figures = {str(metric): n / d if d else 0.0 for metric, n, d in sums.itertuples()}
    for name, parts in compositions().items():
        if all(part in figures for part in parts):
            figures[name] = sum(weight * figures[part] for part, weight in parts.items())
    return figures


def _by_image(rows: Iterable[Row]) -> list[Row]:
    """One row per metric and picture."""
    sums: dict[tuple[str, str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for metric, pool, image, numerator, denominator in rows:
        n, d = sums[metric, pool, image]
        sums[metric, pool, image] = n + numerator, d + denominator
    return [(*key, *value) for key, value in sorted(sums.items())]


def _check(run: Run, figures: Mapping[str, float]) -> None:
    printed_by = {metric: place for one in lmms_benchmarks() for metric, place in one.printed.items()}
    for metric, (task, name) in printed_by.items():
        if task not in run.figures or metric not in figures:
            continue
        printed = run.figures[task].get(name)
        if not isinstance(printed, int | float) or not math.isclose(printed, figures[metric], abs_tol=TOLERANCE):
            raise ArtifactError(
                f"{run.folder}: lmms-eval's {name} of {task} is {printed}, but its samples add up to "
                f"{figures[metric]}. {AGAIN}"
            )
