"""Stage `data`: the pairs of every split, the table of records set aside, and a manifest.

Pairs of JourneyDB or of a user's own also leave `questions.csv` (what became of the questions) and `selection.json`
(ids and sha256, so that another site gets the same set).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.data import RealData
from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Data
from hermesflow.core.files import Layout, write_manifest, write_table
from hermesflow.data.pairs import write_pairs
from hermesflow.data.sources.real_pairs import write_real_pairs
from hermesflow.data.worlds.language import GENEVAL_KINDS
from hermesflow.data.worlds.world import world_of

SPLITS = ("base", "pairs", "gap", "understanding", "prompts")


def run(config: Config, layout: Layout) -> None:
    """Writes `data/{split}.parquet` for every split, `data/rejected.csv` and `data/manifest.json`.

    Args:
        config: the experiment.
        layout: paths of its artifacts.

    Raises:
        DataError: If a source cannot be read or has too few valid records.
    """
    data, inputs = config.data, list[Path]()
    if isinstance(data, RealData):
        write_real_pairs(data, split_counts(config), layout, device=config.runtime.device)
        inputs = [] if data.selection is None else [Path(data.selection)]
    else:
        for split in SPLITS:
            write_pairs(layout.data(split), _scenes(config, data, split))
        nothing = pd.DataFrame(columns=["split", "id", "record", "reason"])
        write_table(layout.root / "data" / "rejected.csv", nothing)
    write_manifest(layout.root / "data", config=params_of(config, "data"), inputs=inputs, seed=data.seed)


def _scenes(config: Config, data: Data, split: str) -> Iterable[dict[str, Any]]:
    """Pairs of a small world."""
    world = world_of(data)
    if split == "prompts":
        geneval = config.evaluation.geneval_prompts * len(GENEVAL_KINDS)
        return chain(
            world.make_pairs(split, geneval, config=data, kinds=GENEVAL_KINDS),
            world.make_pairs(split, config.evaluation.dense_prompts, config=data, kinds=("dense",)),
            world.own_prompts(),
        )
    return world.make_pairs(split, split_counts(config)[split], config=data)


def split_counts(config: Config) -> dict[str, int]:
    """Pairs that a config asks for in every split."""
    return {
        "base": config.data.base_pairs,
        "pairs": config.data.pairs,
        "gap": config.data.gap_pairs,
        "understanding": config.evaluation.understanding_images,
        "prompts": config.evaluation.geneval_prompts * len(GENEVAL_KINDS) + config.evaluation.dense_prompts,
    }
