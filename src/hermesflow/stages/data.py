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

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Data
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, write_manifest, write_table
from hermesflow.data.microworld.captions import GENEVAL_KINDS
from hermesflow.data.microworld.world import make_pairs
from hermesflow.data.pairs import read_rows, validate, write_pairs
from hermesflow.data.sources.real_pairs import write_real_pairs

SPLITS = ("base", "pairs", "gap", "understanding", "prompts")


def run(config: Config, layout: Layout) -> None:
    """Write `data/{split}.parquet` for every split, `data/rejected.csv` and `data/manifest.json`.

    Raises:
        DataError: a source is unreadable, or has too few usable records.
    """
    if isinstance(config.data, Data):
        inputs = _write_made(config, config.data, layout)
    else:
        counts = {split: _count(config, split) for split in SPLITS}
        write_real_pairs(config.data, counts, layout, device=config.runtime.device)
        inputs = [] if config.data.selection is None else [Path(config.data.selection)]
    write_manifest(layout.root / "data", config=params_of(config, "data"), inputs=inputs, seed=config.data.seed)


def _write_made(config: Config, data: Data, layout: Layout) -> list[Path]:
    """Pairs of the micro world, or of files that already have the schema; returns those files."""
    tables = []
    for split in SPLITS:
        rows = list(_source(config, data, split))
        accepted, rejected = validate(rows, image_size=data.image_size)
        if not accepted:
            raise DataError(
                f"{_origin(config, data, split)}: all {len(rows)} records were set aside "
                f"({', '.join(sorted(set(rejected['reason']))) or 'the file is empty'}). Mend them and run again."
            )
        write_pairs(layout.data(split), accepted)
        tables.append(rejected.assign(split=split))
    columns = ["split", "id", "record", "reason"]
    write_table(layout.root / "data" / "rejected.csv", pd.concat(tables, ignore_index=True)[columns])
    return [_file(config, data, split) for split in SPLITS] if data.source == "parquet" else []


def _source(config: Config, data: Data, split: str) -> Iterable[dict[str, Any]]:
    """Rows of a split before validation."""
    if data.source == "parquet":
        return read_rows(_file(config, data, split))[: _count(config, split)]
    if split == "prompts":
        geneval = config.evaluation.geneval_prompts * len(GENEVAL_KINDS)
        return chain(
            make_pairs(split, geneval, config=data, kinds=GENEVAL_KINDS),
            make_pairs(split, config.evaluation.dense_prompts, config=data, kinds=("dense",)),
        )
    return make_pairs(split, _count(config, split), config=data)


def _count(config: Config, split: str) -> int:
    return {
        "base": config.data.base_pairs,
        "pairs": config.data.pairs,
        "gap": config.data.gap_pairs,
        "understanding": config.evaluation.understanding_images,
        "prompts": config.evaluation.geneval_prompts * len(GENEVAL_KINDS) + config.evaluation.dense_prompts,
    }[split]


def _file(config: Config, data: Data, split: str) -> Path:
    if data.path is None:
        raise DataError(
            f"config {config.name}: data.source is `parquet`, but data.path is empty. Let it name a folder with "
            f"{', '.join(f'{name}.parquet' for name in SPLITS)} (schema: hermesflow.data.pairs.SCHEMA)."
        )
    return Path(data.path) / f"{split}.parquet"


def _origin(config: Config, data: Data, split: str) -> str:
    return str(_file(config, data, split)) if data.source == "parquet" else f"split {split} of the micro world"
