"""Stage `gather_scores`: the shards of one checkpoint's scores as one table of each kind."""

from __future__ import annotations

import pandas as pd

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.core.files import Layout, read_table, write_manifest, write_table
from hermesflow.data.pairs import read_pairs
from hermesflow.selfplay.sharding import (
    IMAGE_TYPES,
    SCORE_TYPES,
    check_candidates,
    pairs_per_batch,
    shard_folder,
    shard_ids,
    sorted_candidates,
)


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, shards: int | None = None) -> None:
    """Write `scores/captions.parquet` and `scores/images.parquet`, in the order of the pairs.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: whose scores.
        shards: number of shards they were scored in; `runtime.shards` if None.

    Raises:
        ArtifactError: a shard is missing or truncated, or lacks or repeats a pair or a candidate.
    """
    shards = shards or config.runtime.shards
    ids = list(read_pairs(layout.data("pairs"))["id"])
    folder = layout.checkpoint(seed, checkpoint) / "scores"
    kinds = {
        "captions": (SCORE_TYPES, len(config.sampling.captions.decodings)),
        "images": (IMAGE_TYPES, config.sampling.images.n),
    }
    for kind, (types, n) in kinds.items():
        tables: list[pd.DataFrame] = []
        for shard in range(shards):
            path = shard_folder(folder, shard=shard, shards=shards) / f"{kind}.parquet"
            table = read_table(path, list(types))
            expected = shard_ids(ids, batch=pairs_per_batch(config), shard=shard, shards=shards)
            check_candidates(path, table, expected, n=n)
            tables.append(table)
        write_table(folder / f"{kind}.parquet", sorted_candidates(tables, ids, types))
    inputs = [folder.parent / "candidates" / name for name in ("captions.parquet", "images.npy")]
    write_manifest(folder, config=params_of(config, "gather_scores"), inputs=inputs, seed=seed)
