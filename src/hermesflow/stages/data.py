"""Stage `data`: the pairs of every split, the table of records set aside, and a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.artifacts import Layout, write_manifest, write_table
from hermesflow.config import Config, as_plain
from hermesflow.data.captions import GENEVAL_KINDS
from hermesflow.data.microworld import make_pairs
from hermesflow.data.pairs import read_rows, validate, write_pairs
from hermesflow.errors import DataError

SPLITS = ("base", "pairs", "gap", "understanding", "prompts")


def run(config: Config, layout: Layout) -> None:
    """Write `data/{split}.parquet` for every split, `data/rejected.csv` and `data/manifest.json`.

    Raises:
        DataError: a source file is unreadable, or nothing in it is usable.
    """
    tables = []
    for split in SPLITS:
        rows = list(_source(config, split))
        accepted, rejected = validate(rows, image_size=config.data.image_size)
        if not accepted:
            raise DataError(
                f"{_origin(config, split)}: all {len(rows)} records were set aside "
                f"({', '.join(sorted(set(rejected['reason']))) or 'the file is empty'}). Mend them and run again."
            )
        write_pairs(layout.data(split), accepted)
        tables.append(rejected.assign(split=split))
    columns = ["split", "id", "record", "reason"]
    rejected = pd.concat(tables, ignore_index=True)[columns]
    write_table(layout.root / "data" / "rejected.csv", rejected)
    inputs = [_file(config, split) for split in SPLITS] if config.data.source == "parquet" else []
    write_manifest(layout.root / "data", config=as_plain(config.data), inputs=inputs, seed=config.data.seed)


def _source(config: Config, split: str) -> Iterable[dict[str, Any]]:
    """Rows of a split before validation."""
    if config.data.source == "parquet":
        return read_rows(_file(config, split))[: _count(config, split)]
    if split == "prompts":
        geneval = config.evaluation.geneval_prompts * len(GENEVAL_KINDS)
        return chain(
            make_pairs(split, geneval, config=config.data, kinds=GENEVAL_KINDS),
            make_pairs(split, config.evaluation.dense_prompts, config=config.data, kinds=("dense",)),
        )
    return make_pairs(split, _count(config, split), config=config.data)


def _count(config: Config, split: str) -> int:
    return {
        "base": config.data.base_pairs,
        "pairs": config.data.pairs,
        "gap": config.data.gap_pairs,
        "understanding": config.evaluation.understanding_images,
        "prompts": config.evaluation.geneval_prompts * len(GENEVAL_KINDS) + config.evaluation.dense_prompts,
    }[split]


def _file(config: Config, split: str) -> Path:
    if config.data.path is None:
        raise DataError(
            f"config {config.name}: data.source is `parquet`, but data.path is empty. Let it name a folder with "
            f"{', '.join(f'{name}.parquet' for name in SPLITS)} (schema: hermesflow.data.pairs.SCHEMA)."
        )
    return Path(config.data.path) / f"{split}.parquet"


def _origin(config: Config, split: str) -> str:
    return str(_file(config, split)) if config.data.source == "parquet" else f"split {split} of the micro world"
