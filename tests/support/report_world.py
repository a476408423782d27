"""Synthetic statistics in the form of `statistics.summarise`, for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.evaluation.bootstrap import COLUMNS
from hermesflow.evaluation.metrics import GENEVAL_KINDS

ROOT = Path(__file__).parents[2]
PAPER_TABLES = ROOT / "config" / "paper_tables"
GAPS = {  # understanding, generation
    "base": (0.870, 0.742),
    "pair-1": (0.869, 0.793),
    "pair-2": (0.872, 0.810),
    "pair-3": (0.871, 0.821),
    "und-1": (0.873, 0.731),
    "gen-1": (0.866, 0.795),
    "pair-1-n2": (0.868, 0.760),
    "pair-1-n4": (0.869, 0.778),
    "dpo-1": (0.868, 0.780),
    "dpo-2": (0.866, 0.775),
    "dpo-3": (0.865, 0.770),
}


def micro() -> Config:
    return load_config(ROOT / "config" / "micro.yaml")


def pictures() -> Config:
    return load_config(ROOT / "config" / "pictures.yaml")


def showo() -> Config:
    return load_config(ROOT / "config" / "showo.yaml")


def metrics_of(understanding: float, generation: float) -> dict[str, float]:
    values = {
        "pope/accuracy": understanding + 0.05,
        "mme/total": 600 * understanding,
        "cider": 4 * understanding,
        "vqa": understanding,
        "gqa": understanding - 0.04,
        "geneval/overall": generation - 0.4,
        "dpg": generation - 0.1,
        "fid": 4 - 2 * generation,
        "clip_score": 30 * generation,
    }
    values |= {f"geneval/{kind}": generation - 0.1 * i for i, kind in enumerate(GENEVAL_KINDS)}
    for protocol, shift in (("paper", 0.01), ("same-judge", 0.0)):
        sides = {
            "understanding": understanding + shift,
            "generation": generation,
            "gap": understanding + shift - generation,
            "both_right": generation - 0.1,
        }
        values |= {f"gap/{protocol}/{side}": value for side, value in sides.items()}
    return values


PICTURES_GAPS = {name: GAPS[name] for name in ("base", "pair-1", "pair-2", "pair-3", "und-1", "gen-1")}


def pictures_summary(**settings: Any) -> pd.DataFrame:
    """The same in the pictures world, which is asked GenEval's own prompts too."""

    def metrics(understanding: float, generation: float) -> dict[str, float]:
        asked = {f"geneval/own_{kind}": generation - 0.3 for kind in (*GENEVAL_KINDS, "overall")}
        return metrics_of(understanding, generation) | asked

    return make_summary(PICTURES_GAPS, metrics, **settings)


REAL_GAPS = {"base": (0.52, 0.43), "pair-1": (0.53, 0.47), "pair-2": (0.53, 0.48), "pair-3": (0.54, 0.50),
             "und-1": (0.53, 0.42), "gen-1": (0.52, 0.46)}  # fmt: skip


def own_metrics_of(understanding: float, generation: float) -> dict[str, float]:
    """What an evaluation measures on real pairs, without any judge: the model is too pleased with what it draws."""
    pleased = 2 * generation - 0.41
    return {
        **{"vqa": understanding, "cider": 0.9, "gap/self/understanding": understanding},
        **{"gap/self/generation": pleased, "gap/self/gap": understanding - pleased, "gap/self/both_right": 0.3},
    }


def real_metrics_of(understanding: float, generation: float) -> dict[str, float]:
    """What the evaluation and all real benchmarks measure."""
    micro = metrics_of(understanding, generation)
    del micro["mme/total"]
    return {
        **micro,
        **own_metrics_of(understanding, generation),
        **{"pope/accuracy": understanding + 0.28, "mme/perception": 2000 * understanding, "mme/cognition": 250.0},
        **{"flickr30k/full/cider": 0.676, "flickr30k/karpathy/cider": 0.65, "vqav2": understanding + 0.2},
        **{"gqa": 0.61, "mmmu": 0.274, "fid": 26.2 - 10 * generation, "clip_score": 30.6},
    }


def real_summary(
    metrics_of: Callable[[float, float], dict[str, float]] = real_metrics_of, **settings: Any
) -> pd.DataFrame:
    """The same for real images."""
    return make_summary(REAL_GAPS, metrics_of, **settings)


def make_summary(
    gaps: Mapping[str, tuple[float, float]] = GAPS,
    metrics_of: Callable[[float, float], dict[str, float]] = metrics_of,
    *,
    half_width: float = 0.02,
    seeds: int = 3,
    pairs: Sequence[tuple[str, str]] = (),
) -> pd.DataFrame:
    """Every metric of every checkpoint; all intervals are value -/+ half_width, differences (of pairs too) as well."""
    base = metrics_of(*gaps["base"])
    rows = []
    for checkpoint, sides in gaps.items():
        for metric, value in metrics_of(*sides).items():
            row = {"checkpoint": checkpoint, "metric": metric, "value": value, "items": 400, "seeds": seeds}
            row |= {"low": value - half_width, "high": value + half_width, "against": "base"}
            if checkpoint != "base":
                delta = value - base[metric]
                row |= {"delta": delta, "delta_low": delta - half_width, "delta_high": delta + half_width}
            rows.append(row)
    for first, second in pairs:
        others = metrics_of(*gaps[second])
        for metric, value in metrics_of(*gaps[first]).items():
            delta = value - others[metric]
            row = {"checkpoint": first, "metric": metric, "value": value, "items": 400, "seeds": seeds}
            row |= {"delta": delta, "delta_low": delta - half_width, "delta_high": delta + half_width}
            rows.append(row | {"against": second})
    return pd.DataFrame(rows, columns=list(COLUMNS))
