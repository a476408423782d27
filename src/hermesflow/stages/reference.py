"""Stage `reference`: log-probs of a checkpoint's parent on every row that training will meet."""

from __future__ import annotations

import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_codes, read_table, write_table
from hermesflow.models.showo.model import load_model
from hermesflow.selfplay.preferences import CAPTION_COLUMNS, IMAGE_COLUMNS
from hermesflow.training.distributed import new_accelerator
from hermesflow.training.pair_dpo import reference_logps
from hermesflow.training.pairs import HomologousPairs


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> None:
    """Write `preferences/reference.parquet` of one checkpoint.

    Raises:
        ArtifactError: preferences, captions, image tokens or the parent's weights are missing or broken.
        ConfigError: training settings that cannot be meant.
    """
    torch.set_num_threads(config.runtime.train_threads)
    training = config.training_of(checkpoint)
    accelerator = new_accelerator(training, device=config.runtime.device, precision=config.runtime.precision)
    parent = layout.checkpoint(seed, config.checkpoints[checkpoint].parent)
    table = reference_logps(
        load_model(parent / "model", device=accelerator.device),
        load_pairs(config, layout, seed=seed, checkpoint=checkpoint),
        training=training,
        accelerator=accelerator,
        what=f"reference of {checkpoint}, seed {seed}",
    )
    if accelerator.is_main_process:
        write_table(layout.checkpoint(seed, checkpoint) / "preferences" / "reference.parquet", table)
    accelerator.end_training()


def load_pairs(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> HomologousPairs:
    """The homologous preference pairs of one checkpoint, with the captions and image tokens they are about."""
    path = layout.checkpoint(seed, checkpoint) / "preferences" / "preferences.parquet"
    preferences = read_table(path, [*CAPTION_COLUMNS, *IMAGE_COLUMNS])
    ids, codes = read_codes(layout.codes("pairs"))
    return HomologousPairs(
        preferences,
        captions=_captions(layout),
        codes=dict(zip(ids, codes[:, 0], strict=True)),
        seed=seed,
        iteration=config.iteration(checkpoint),
        mask_schedule=config.training_of(checkpoint).mask_schedule,
    )


def _captions(layout: Layout) -> dict[str, str]:
    path = layout.data("pairs")
    try:
        table = pd.read_parquet(path, columns=["id", "caption"])  # not the images
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: ids and captions cannot be read ({error}). Run stage data again.") from error
    return dict(zip(table["id"], table["caption"], strict=True))
