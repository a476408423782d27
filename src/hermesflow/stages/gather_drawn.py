"""Stage `gather_drawn`: the shards of the images of one benchmark as one array, in the benchmark's order."""

from __future__ import annotations

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, read_json, write_json
from hermesflow.evaluation.registry import read_prompts
from hermesflow.selfplay.sharding import gather_images


def run(
    config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, shards: int | None = None
) -> None:
    """Concatenates the shards of a benchmark's generated images in the order of its prompts.

    Writes `benchmarks/{benchmark}/images.npy` of shape (prompts, images per prompt, *generated), and `images.json` with
    the digest of the prompts and those that the model cut.

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
    gather_images(folder, prompts.ids, batch=prompts.batch, shards=shards)
    index = folder / "images.json"
    write_json(index, {**read_json(index), "prompts": prompts.digest})
