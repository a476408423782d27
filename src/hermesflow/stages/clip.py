"""Stage `clip`: train the fixed image-text extractor of the Frechet distance and the image-text score."""

from __future__ import annotations

import torch

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, write_json, write_manifest
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.evaluation.worlds.clip import retrieval_accuracy, save_clip, train_clip


def run(config: Config, layout: Layout) -> None:
    """Write `clip/`: weights, settings, retrieval accuracy on split `gap` and the last losses.

    Raises:
        DataError: split `base` is empty, as where the base model has released weights.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    deterministic()
    base, held_out = read_pairs(layout.data("base")), read_pairs(layout.data("gap"))
    if not len(base):
        raise DataError(
            f"{layout.data('base')}: no pairs, so there is nothing to train the extractor on. Set data.base_pairs. "
            "Pairs of real images need none: their evaluation does without the extractor."
        )
    steps = config.evaluation.clip_steps
    model, losses = train_clip(
        images_of(base),
        base["caption"],
        steps=steps,
        seed=config.data.seed,
        device=config.runtime.device,
        progress=Progress(steps, "image-text extractor", "step").advance,
    )
    save_clip(model, layout.clip)
    last = losses[-min(20, steps) :]
    accuracy = retrieval_accuracy(model, images_of(held_out), list(held_out["caption"]))
    captions = len(set(held_out["caption"]))
    write_json(
        layout.clip / "metrics.json",
        {"loss": sum(last) / len(last), "retrieval_accuracy": accuracy, "held_out_captions": captions},
    )
    write_manifest(
        layout.clip,
        config=params_of(config, "clip"),
        inputs=[layout.data("base"), layout.data("gap")],
        seed=config.data.seed,
    )
