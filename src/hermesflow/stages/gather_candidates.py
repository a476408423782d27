"""Stage `gather_candidates`: the shards of one checkpoint's candidates as one file of each kind."""

from __future__ import annotations

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.core.files import Layout, write_manifest, write_table
from hermesflow.core.images import read_cut
from hermesflow.data.pairs import read_pairs
from hermesflow.selfplay.sharding import CAPTION_TYPES, gather_images, gathered_table


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
    batch, n = config.sampling.batch_pairs, len(config.sampling.captions.decodings)
    table = gathered_table(folder, "captions.parquet", CAPTION_TYPES, ids, n=n, batch=batch, shards=shards)
    write_table(folder / "captions.parquet", table)
    gather_images(folder, ids, batch=batch, shards=shards)
    inputs = [layout.data("pairs"), layout.seen("pairs"), folder.parent / "model" / "model.safetensors"]
    counts = {"prompts that the model cut": len(read_cut(folder / "images.npy"))}
    write_manifest(folder, config=params_of(config, "gather_candidates"), inputs=inputs, seed=seed, counts=counts)
