"""Stage `reference`: log-probs of a checkpoint's parent on every row that training will meet."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.config.tree import iteration, training_of
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_table, write_table
from hermesflow.core.images import read_images
from hermesflow.models.backbone import UnifiedModel, load_model
from hermesflow.selfplay.preferences import CAPTION_COLUMNS, IMAGE_COLUMNS
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.logps import reference_logps
from hermesflow.training.pairs import HomologousPairs


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> None:
    """Write `preferences/reference.parquet` of one checkpoint.

    Raises:
        ArtifactError: preferences, captions, image tokens or the parent's weights are missing or broken.
        ConfigError: training settings that cannot be meant.
        NotFiniteError: a log-prob is not.
    """
    torch.set_num_threads(config.runtime.train_threads)
    training = training_of(config, checkpoint)
    accelerator = new_accelerator(training, device=config.runtime.device, precision=config.runtime.precision)
    parent = layout.checkpoint(seed, config.checkpoints[checkpoint].parent)
    model = load_model(parent / "model", device=accelerator.device)
    table = reference_logps(
        model,
        load_pairs(config, layout, model, seed=seed, checkpoint=checkpoint),
        training=training,
        accelerator=accelerator,
        what=f"reference of {checkpoint}, seed {seed}",
    )
    if accelerator.is_main_process:
        write_table(layout.checkpoint(seed, checkpoint) / "preferences" / "reference.parquet", table)
    accelerator.end_training()


def load_pairs(config: Config, layout: Layout, model: UnifiedModel, *, seed: int, checkpoint: str) -> HomologousPairs:
    """The homologous preference pairs of one checkpoint, with the captions and images they are about.

    Args:
        config: the experiment.
        layout: where it lies.
        model: decides the forms of images, and their noise.
        seed: run seed.
        checkpoint: whose pairs.

    Raises:
        ArtifactError: a file is missing or broken, or holds images of another form than the model's.
        DataError: the pairs are not about these images and captions.
    """
    folder = layout.checkpoint(seed, checkpoint) / "preferences"
    preferences = read_table(folder / "preferences.parquet", [*CAPTION_COLUMNS, *IMAGE_COLUMNS])
    image_ids, images = read_images(folder / "images.npy", model.generated)
    seen_ids, seen = read_images(layout.seen("pairs"), model.seen)
    return HomologousPairs(
        preferences,
        images=dict(zip(image_ids, images, strict=True)),
        captions=_captions(layout),
        seen=dict(zip(seen_ids, seen[:, 0], strict=True)),
        seed=seed,
        iteration=iteration(config, checkpoint),
        noise=partial(model.noise, settings=training_of(config, checkpoint)),
    )


def _captions(layout: Layout) -> dict[str, str]:
    path = layout.data("pairs")
    try:
        table = pd.read_parquet(path, columns=["id", "caption"])  # not the images
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: ids and captions cannot be read ({error}). Run stage data again.") from error
    return dict(zip(table["id"], table["caption"], strict=True))
