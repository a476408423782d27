"""Stage `gather_candidates`: the shards of one checkpoint's candidates as one file of each kind."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.core.files import Layout, read_table, write_manifest, write_table
from hermesflow.core.images import read_form, read_images, write_images
from hermesflow.data.pairs import read_pairs
from hermesflow.selfplay.sharding import (
    CAPTION_TYPES,
    check_candidates,
    check_ids,
    shard_folder,
    shard_ids,
    sorted_candidates,
)


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, shards: int | None = None) -> None:
    """Write `candidates/captions.parquet` and `candidates/images.npy`, in the order of the pairs.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: whose candidates.
        shards: number of shards they were sampled in; `runtime.shards` if None.

    Raises:
        ArtifactError: a shard is missing or truncated, or lacks or repeats a pair or a candidate.
    """
    shards = shards or config.runtime.shards
    ids = list(read_pairs(layout.data("pairs"))["id"])
    folder = layout.checkpoint(seed, checkpoint) / "candidates"
    tables: list[pd.DataFrame] = []
    images_by_id: dict[str, np.ndarray] = {}
    for shard in range(shards):
        part = shard_folder(folder, shard=shard, shards=shards)
        expected = shard_ids(ids, batch=config.sampling.batch_pairs, shard=shard, shards=shards)
        table = read_table(part / "captions.parquet", list(CAPTION_TYPES))
        check_candidates(part / "captions.parquet", table, expected, n=len(config.sampling.captions.decodings))
        tables.append(table)
        image_ids, images = read_images(part / "images.npy")
        check_ids(part / "images.npy", image_ids, expected)
        images_by_id.update(zip(image_ids, images, strict=True))
    write_table(folder / "captions.parquet", sorted_candidates(tables, ids, CAPTION_TYPES))
    form = read_form(shard_folder(folder, shard=0, shards=shards) / "images.npy")
    write_images(folder / "images.npy", ids, np.stack([images_by_id[id_] for id_ in ids]), form)
    inputs = [layout.data("pairs"), layout.seen("pairs"), folder.parent / "model" / "model.safetensors"]
    write_manifest(folder, config=params_of(config, "gather_candidates"), inputs=inputs, seed=seed)
