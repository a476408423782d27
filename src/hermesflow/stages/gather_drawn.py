"""Stage `gather_drawn`: the shards of the images of one benchmark as one store of tokens, in the benchmark's order."""

from __future__ import annotations

import numpy as np

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, read_codes, read_json, write_codes, write_json
from hermesflow.evaluation.registry import read_prompts
from hermesflow.selfplay.sharding import check_ids, shard_folder, shard_ids


def run(
    config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, shards: int | None = None
) -> None:
    """Write `benchmarks/{benchmark}/images.npy`, (prompts, images of each, tokens), and of which prompts they are.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: who drew.
        benchmark: whose prompts.
        shards: number of shards they were drawn in; `runtime.shards` if None.

    Raises:
        ArtifactError: a shard is missing or truncated, or lacks or repeats a prompt.
    """
    shards = shards or config.runtime.shards
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    folder = layout.benchmark(seed, checkpoint, benchmark)
    code_of: dict[str, np.ndarray] = {}
    for shard in range(shards):
        path = shard_folder(folder, shard=shard, shards=shards) / "images.npy"
        found, codes = read_codes(path)
        check_ids(path, found, shard_ids(prompts.ids, batch=prompts.batch, shard=shard, shards=shards))
        code_of.update(zip(found, codes, strict=True))
    path, index = folder / "images.npy", folder / "images.json"
    write_codes(path, prompts.ids, np.stack([code_of[id_] for id_ in prompts.ids]))
    write_json(index, {**read_json(index), "prompts": prompts.digest})
