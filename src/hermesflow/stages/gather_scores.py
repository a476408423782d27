"""Stage `gather_scores`: the shards of one checkpoint's scores as one table of each kind."""

from __future__ import annotations

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.core.files import Layout, write_manifest, write_table
from hermesflow.data.pairs import read_pairs
from hermesflow.selfplay.sharding import IMAGE_TYPES, SCORE_TYPES, gathered_table, pairs_per_batch


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
    batch = pairs_per_batch(config)
    for kind, (types, n) in kinds.items():
        table = gathered_table(folder, f"{kind}.parquet", types, ids, n=n, batch=batch, shards=shards)
        write_table(folder / f"{kind}.parquet", table)
    inputs = [folder.parent / "candidates" / name for name in ("captions.parquet", "images.npy")]
    write_manifest(folder, config=params_of(config, "gather_scores"), inputs=inputs, seed=seed)
