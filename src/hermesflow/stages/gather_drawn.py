"""Stage `gather_drawn`: the shards of the images of one benchmark as one array, in the benchmark's order."""

from __future__ import annotations

import numpy as np

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, read_json, write_json
from hermesflow.core.images import read_form, read_images, write_images
from hermesflow.evaluation.registry import read_prompts
from hermesflow.selfplay.sharding import check_ids, shard_folder, shard_ids


def run(
    config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, shards: int | None = None
) -> None:
    """Concatenates the shards of a benchmark's generated images in the order of its prompts.

    Writes `benchmarks/{benchmark}/images.npy` of shape (prompts, images per prompt, *generated), and `images.json` with
    the digest of the prompts.

    Args:
        config: the experiment.
        layout: paths of its artifacts.
        seed: run seed.
        checkpoint: the checkpoint that generated the images.
        benchmark: name of the benchmark.
        shards: number of shards. Default: `runtime.shards`.

    Raises:
        ArtifactError: If a shard is missing or truncated, or if it lacks or repeats a prompt.
    """
    shards = shards or config.runtime.shards
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    folder = layout.benchmark(seed, checkpoint, benchmark)
    images_by_id: dict[str, np.ndarray] = {}
    for shard in range(shards):
        path = shard_folder(folder, shard=shard, shards=shards) / "images.npy"
        image_ids, images = read_images(path)
        check_ids(path, image_ids, shard_ids(prompts.ids, batch=prompts.batch, shard=shard, shards=shards))
        images_by_id.update(zip(image_ids, images, strict=True))
    path, index = folder / "images.npy", folder / "images.json"
    form = read_form(shard_folder(folder, shard=0, shards=shards) / "images.npy")
    write_images(path, prompts.ids, np.stack([images_by_id[id_] for id_ in prompts.ids]), form)
    write_json(index, {**read_json(index), "prompts": prompts.digest})
