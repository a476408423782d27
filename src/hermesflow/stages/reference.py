"""Stage `reference`: log-probs under a checkpoint on every row that trainings of its children will meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Training
from hermesflow.config.tree import iteration, read_variant, training_of
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_table, write_table
from hermesflow.core.images import read_images
from hermesflow.models.backbone import UnifiedModel, load_model
from hermesflow.selfplay.preferences import CAPTION_COLUMNS, IMAGE_COLUMNS, homologous_table, image_arrays
from hermesflow.stages.prefer import selections
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.logps import reference_logps
from hermesflow.training.pairs import HomologousPairs


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, variant: str) -> None:
    """Write `reference/` of one checkpoint for all that are trained from it on the same pairs for as many steps.

    The pairs are made here from its scored candidates, as stage `prefer` makes them for each of those.

    Args:
        config: the experiment.
        layout: where it lies.
        seed: run seed.
        checkpoint: the reference.
        variant: what these have in common beside the section `preferences`: `config.tree.Reference.variant`.

    Raises:
        ArtifactError: candidates, scores, captions, image tokens or the weights are missing or broken.
        ConfigError: training settings that cannot be meant.
        NotFiniteError: a log-prob is not.
    """
    torch.set_num_threads(config.runtime.train_threads)
    reference = read_variant(checkpoint, variant)
    training = replace(config.training, steps=reference.steps, mask_ratios=reference.mask_ratios)
    settings = replace(config.preferences, pairs=reference.pairs, rejected=reference.rejected)
    accelerator = new_accelerator(training, device=config.runtime.device, precision=config.runtime.precision)
    folder = layout.checkpoint(seed, checkpoint)
    model = load_model(folder / "model", device=accelerator.device)
    read_images(folder / "candidates" / "images.npy", model.generated)
    captions, images = selections(layout, settings, seed=seed, checkpoint=checkpoint, candidates=reference.candidates)
    arrays = dict(zip(images.pairs, image_arrays(images.pairs, model.generated), strict=True))
    preferences, _ = homologous_table(captions, images, settings.pairs)
    table = reference_logps(
        model,
        homologous_pairs(
            layout,
            model,
            preferences,
            arrays,
            training=training,
            seed=seed,
            iteration=1 + iteration(config, checkpoint),
        ),
        training=training,
        accelerator=accelerator,
        what=f"reference {checkpoint}, seed {seed}",
    )
    if accelerator.is_main_process:
        write_table(layout.reference(seed, checkpoint, variant), table)
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
    ids, images = read_images(folder / "images.npy", model.generated)
    arrays = dict(zip(ids, images, strict=True))
    return homologous_pairs(
        layout,
        model,
        preferences,
        arrays,
        training=training_of(config, checkpoint),
        seed=seed,
        iteration=iteration(config, checkpoint),
    )


def homologous_pairs(
    layout: Layout,
    model: UnifiedModel,
    preferences: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    *,
    training: Training,
    seed: int,
    iteration: int,
) -> HomologousPairs:
    """Preferences with the real images and captions they are about, and their noise.

    Args:
        layout: where the experiment lies.
        model: decides the forms of images, and their noise.
        preferences: one row per id, of `CAPTION_COLUMNS` and `IMAGE_COLUMNS`.
        images: chosen and rejected image by id, (2, *generated), of those that have a pair of images.
        training: settings of the noise.
        seed: run seed.
        iteration: self-play iteration, from 1.
    """
    without = preferences["id"][preferences["chosen_image_score"].isna()]
    blank = np.zeros((2, *model.generated.shape), model.generated.dtype)
    seen_ids, seen = read_images(layout.seen("pairs"), model.seen)
    return HomologousPairs(
        preferences,
        images={**images, **dict.fromkeys(without, blank)},
        captions=_captions(layout),
        seen=dict(zip(seen_ids, seen[:, 0], strict=True)),
        seed=seed,
        iteration=iteration,
        noise=partial(model.noise, settings=training),
    )


def _captions(layout: Layout) -> dict[str, str]:
    path = layout.data("pairs")
    try:
        table = pd.read_parquet(path, columns=["id", "caption"])  # not the images
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: ids and captions cannot be read ({error}). Run stage data again.") from error
    return dict(zip(table["id"], table["caption"], strict=True))
