"""What evaluations and real benchmarks leave for the bootstrap, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json, read_table, read_weights

UNITS = "units.parquet"
FEATURES = "features.safetensors"
VALUES = "values.json"
"""Of a real benchmark's folder: figures of all units together, by metric, as the fields of `Whole`."""
UNIT_COLUMNS = ("metric", "pool", "id", "numerator", "denominator")


@dataclass(frozen=True)
class Whole:
    """A figure that is no ratio of sums over units, with its bootstrap."""

    value: FiniteFloat
    items: int
    """Units that were resampled."""
    replicates: tuple[FiniteFloat, ...]
    """The figure of each resample of `resample_counts`."""


@dataclass(frozen=True)
class Evaluated:
    """What the evaluation folder of one checkpoint and seed, and the benchmarks' beside it, hold for the bootstrap."""

    units: pd.DataFrame
    """One row per (metric, id): UNIT_COLUMNS."""
    generated: np.ndarray
    """(N, D) features of drawn images, one per unit of FIDELITY_POOL, in order of the ids."""
    real: np.ndarray
    """(M, D) features of real images: the fixed reference of the Frechet distance."""
    values: Mapping[str, Whole] = field(default_factory=dict)
    """Figures of all units together, by metric."""


def read_evaluated(folder: Path, benchmarks: Sequence[Path] = ()) -> Evaluated:
    """Read the raw material of one checkpoint and seed.

    Args:
        folder: its evaluation.
        benchmarks: folders of real benchmarks; they hold units and values, and no features.

    Raises:
        ArtifactError: a file is missing, truncated, of another form or with values that are not finite, or two folders
            measure the same metric.
    """
    units = [read_table(folder / UNITS, UNIT_COLUMNS, numbers=UNIT_COLUMNS[3:])]
    features = read_weights(folder / FEATURES)
    if not {"generated", "real"} <= features.keys():
        raise ArtifactError(f"{folder / FEATURES}: has {sorted(features)}, not `generated` and `real`. Evaluate again.")
    values: dict[str, Whole] = {}
    measured = set(units[0]["metric"])
    for benchmark in benchmarks:
        units.append(read_table(benchmark / UNITS, UNIT_COLUMNS, numbers=UNIT_COLUMNS[3:])[list(UNIT_COLUMNS)])
        benchmark_values = read_values(benchmark / VALUES)
        metrics = {*units[-1]["metric"], *benchmark_values}
        if twice := sorted(measured & metrics):
            raise ArtifactError(
                f"{benchmark}: measures `{twice[0]}`, which another folder of this checkpoint does too. {_AGAIN}"
            )
        measured |= metrics
        values |= benchmark_values
    from hermesflow.core.finite import check_weights  # imports torch, as reading features does

    check_weights(features.items(), str(folder / FEATURES), "Evaluate again.")
    generated, real = (features[name].double().numpy() for name in ("generated", "real"))
    return Evaluated(pd.concat(units, ignore_index=True), generated, real, values)


def read_values(path: Path) -> dict[str, Whole]:
    """Figures of all units together, by metric.

    Raises:
        ArtifactError: missing, truncated, or something in it is not a finite number.
    """
    try:
        return TypeAdapter(dict[str, Whole]).validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = "/".join(map(str, wrong["loc"]))
        raise ArtifactError(f"{path}: `{key}`: {wrong['msg']} (got {wrong['input']!r}). {_AGAIN}") from error


_AGAIN = "Delete the folder and run snakemake again."
