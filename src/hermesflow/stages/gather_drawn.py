"""Stage `gather_drawn`: the shards of the images of one benchmark as one array, in the benchmark's order."""

from __future__ import annotations

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, read_json, write_json
from hermesflow.evaluation.registry import read_prompts
from hermesflow.selfplay.sharding import gather_images


def run(
    config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, shards: int | None = None
) -> None:
    """Write `benchmarks/{benchmark}/images.npy`, (prompts, images of each, *generated), and of which prompts they are.

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
    gather_images(folder, prompts.ids, batch=prompts.batch, shards=shards)
    index = folder / "images.json"
    write_json(index, {**read_json(index), "prompts": prompts.digest})
