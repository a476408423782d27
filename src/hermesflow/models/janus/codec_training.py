"""Training of Janus' image tokenizer from scratch, by the same losses as Show-o's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from hermesflow.config.experiment import Config
from hermesflow.core import seeding
from hermesflow.models.janus.codec import JanusCodec
from hermesflow.models.janus.vq import ImageVQ
from hermesflow.models.showo.codec_training import different_tiles, train


def train_codec(config: Config, images: np.ndarray) -> tuple[JanusCodec, pd.DataFrame]:
    """A codec trained on (N, H, W, 3) uint8 images, and its history, see `showo.codec_training.train`."""
    assert config.tokenizer_training is not None
    settings = config.tokenizer_training
    tiles, counts = different_tiles(images, config.image_tokenizer.tile_size)
    torch.manual_seed(seeding.seed_of(settings.seed, "tokenizer", "init"))
    network: Any = ImageVQ(config.image_tokenizer).to(config.runtime.device).train()  # has what `train` needs
    history = train(network, tiles, counts, settings)
    return JanusCodec(network.eval(), config.data.image_size), history
