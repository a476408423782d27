"""Stage `draw`: the images of one benchmark's prompts, one shard.

A killed job goes on from its last whole batch: each lies in a folder named after what it was drawn from.
"""

from __future__ import annotations

import shutil
from itertools import compress
from pathlib import Path

import numpy as np
import torch

from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.sections import ImageSampling
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, digest_of, sha256
from hermesflow.core.images import read_images, write_images
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.evaluation.prompts import Prompts
from hermesflow.evaluation.registry import read_prompts
from hermesflow.evaluation.worlds import generation
from hermesflow.models.backbone import UnifiedModel, load_model
from hermesflow.selfplay.sharding import shard_batches, shard_folder


def run(
    config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str, shard: int = 0, shards: int = 1
) -> None:
    """Write `benchmarks/{benchmark}/shards/{shard}-of-{shards}/images.npy` of one checkpoint.

    `images.json` beside it names the prompts that the model cut.

    Raises:
        ConfigError: the config has no such benchmark.
        DataError: the benchmark's file is missing or is not the benchmark's.
        ArtifactError: no such checkpoint.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    if config.runtime.device == "cpu":  # on a GPU torch refuses what has no such version: cuBLAS, cumsum
        deterministic()
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    batches = shard_batches(prompts.ids, batch=prompts.batch, shard=shard, shards=shards)
    folder, runtime = layout.checkpoint(seed, checkpoint) / "model", config.runtime
    model = load_model(folder, device=runtime.device, precision=runtime.inference_precision)
    out = shard_folder(layout.benchmark(seed, checkpoint, benchmark), shard=shard, shards=shards)
    settings = config.sampling.images
    precision, weights = runtime.inference_precision, sha256(folder / "model.safetensors")
    origin = [as_plain(settings), precision, prompts.digest, weights]
    parts = out / f"parts-{digest_of(origin)}"
    what = f"draw {benchmark} by {checkpoint}, seed {seed}, shard {shard} of {shards}"
    progress = Progress(sum(map(len, batches)) * prompts.images, what, "image")
    images: list[np.ndarray] = []
    for number, batch in enumerate(batches):
        path = parts / f"{number}.npy"
        complete = path.with_suffix(".json").exists()  # written last
        images.append(_read_batch(path, batch) if complete else _draw(model, prompts, batch, settings, seed, path))
        progress.advance(len(batch) * prompts.images)
    empty = model.generated.empty(0, prompts.images)
    batch_ids = [id_ for batch in batches for id_ in batch]
    cut = set(compress(prompts.ids, model.is_cut(prompts.texts))) & set(batch_ids)
    write_images(out / "images.npy", batch_ids, np.concatenate([empty, *images]), model.generated, cut=cut)
    for old in out.glob("parts-*"):
        shutil.rmtree(old)


def _draw(
    model: UnifiedModel, prompts: Prompts, ids: list[str], settings: ImageSampling, seed: int, path: Path
) -> np.ndarray:
    images = generation.draw(model, prompts.requests(ids), settings=settings, seed=seed)
    together = images.unflatten(0, (len(ids), prompts.images)).numpy()
    write_images(path, ids, together, model.generated)
    return together


def _read_batch(path: Path, expected: list[str]) -> np.ndarray:
    ids, images = read_images(path)
    if ids != expected:
        raise ArtifactError(f"{path}: holds other prompts than those of its batch. Delete its folder and draw again.")
    return images
