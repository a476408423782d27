"""Training of image tokenizers from scratch.

Training sees every DIFFERENT tile (every different image where `tile_size` is 0) equally often, or in proportion to a
power of its count. In the small worlds a few hundred or thousand tiles make up all images; left at their own
frequencies, rare tiles share codes with common ones and stay there. For the same reason a separation loss can keep the
codes of different tiles a few bits apart.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from hermesflow.config.experiment import Config
from hermesflow.config.sections import TokenizerTraining
from hermesflow.core import seeding
from hermesflow.core.errors import naming
from hermesflow.core.finite import clip_gradients
from hermesflow.core.progress import Progress
from hermesflow.models.codecs import CodesCodec, Reconstruction, to_pixels

LOG_EVERY = 25  # steps between rows of history.csv
WARMUP_SHARE = 0.1
Codec = TypeVar("Codec", bound=CodesCodec)


def train_codec(kind: type[Codec], config: Config, images: np.ndarray) -> tuple[Codec, pd.DataFrame]:
    """A codec of a kind trained on (N, H, W, 3) uint8 images, and its history, see `train`."""
    assert config.tokenizer_training is not None
    settings = config.tokenizer_training
    tiles, counts = different_tiles(images, config.image_tokenizer.tile_size)
    torch.manual_seed(seeding.seed_of(settings.seed, "tokenizer", "init"))
    network = kind.network_class(config.image_tokenizer).to(config.runtime.device).train()
    history = train(network, tiles, counts, settings)
    return kind(network.eval(), config.data.image_size), history


def different_tiles(images: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every different tile once, in order of first sight, and how often it occurs.

    Args:
        images: (N, H, W, 3) uint8.
        size: side of a tile in pixels, a divisor of H and W; 0 takes whole images as tiles.

    Returns:
        (M, size, size, 3) uint8 and (M,) int64.
    """
    number, height, width, _ = images.shape
    rows, columns = (size, size) if size else (height, width)
    tiles = images.reshape(number, height // rows, rows, width // columns, columns, 3).transpose(0, 1, 3, 2, 4, 5)
    flat = np.ascontiguousarray(tiles).reshape(-1, rows * columns * 3)
    different = Counter(tile.tobytes() for tile in flat)
    pixels = np.frombuffer(b"".join(different), dtype=np.uint8)
    return pixels.reshape(-1, rows, columns, 3), np.array(list(different.values()), dtype=np.int64)


def train(model: Any, tiles: np.ndarray, counts: np.ndarray, settings: TokenizerTraining) -> pd.DataFrame:
    """Train in place with AdamW and a one-cycle rate.

    Args:
        model: the network of a codec, in training mode: makes a `Reconstruction`, and codes.
        tiles: (M, h, w, 3) uint8, all different.
        counts: (M,) int64, how often each occurs.
        settings: steps, rates and loss weights.

    Returns:
        One row per LOG_EVERY steps: step, loss and its terms, share of the batch's tiles with a code of their own.

    Raises:
        NotFiniteError: a gradient is not.
    """
    device = next(model.parameters()).device
    background = _background(tiles, counts, settings.grounds)
    weights = torch.where(torch.from_numpy(background), 1.0, settings.foreground_weight).unsqueeze(1).to(device)
    pixels, chances = to_pixels(tiles).to(device), torch.from_numpy(counts).double() ** (settings.count_power or 0.0)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps, pct_start=WARMUP_SHARE, cycle_momentum=False
    )
    generator = seeding.generator(settings.seed, "tokenizer", "batches")
    progress, history = Progress(settings.steps, f"image tokenizer, {len(tiles):,} different tiles", "step"), []
    for step in range(1, settings.steps + 1):
        if settings.count_power is None:
            rows = torch.randperm(len(pixels), generator=generator)[: settings.batch_size].to(device)
        else:
            rows = chances.multinomial(min(settings.batch_size, len(pixels)), generator=generator).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            done = model(pixels[rows])
            with torch.no_grad():
                codes = model.encode(pixels[rows]) if step % LOG_EVERY == 0 or step == settings.steps else None
        terms = loss_terms(done, pixels[rows], weights[rows], margin=settings.separation_margin)
        loss = (
            terms["l1"]
            + settings.entropy_weight * terms["entropy"]
            + settings.commitment_weight * terms["commitment"]
            + settings.separation_weight * terms["separation"]
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        with naming(f"image tokenizer, step {step}", "Lower tokenizer_training.learning_rate."):
            clip_gradients(model, 1.0)
        optimiser.step()
        schedule.step()
        if codes is not None:
            different = len(codes.unique(dim=0)) / len(codes)
            values = {name: term.item() for name, term in terms.items()}
            history.append({"step": step, "loss": loss.item(), **values, "different_codes": different})
        progress.advance(1)
    return pd.DataFrame(history)


def loss_terms(done: Reconstruction, pixels: Tensor, weights: Tensor, *, margin: float) -> dict[str, Tensor]:
    """Scalar loss terms of one batch, unweighted.

    `separation` is, per tile, the sum over the batch's other tiles of how far their agreement, in bits per code,
    exceeds `bits - 2 * margin`; two codes that differ in d bits agree by bits - 2 d.

    Args:
        done: what the model made of `pixels`.
        pixels: (B, 3, H, W), B different tiles.
        weights: (B, 1, H, W) weight of every pixel's absolute error.
        margin: bits that different tiles should differ in.
    """
    bits = done.latents.shape[1]
    flat = done.latents.flatten(1)
    agreement = flat @ flat.T * (bits / flat.shape[1])
    others = 1.0 - torch.eye(len(flat), device=flat.device)
    return {
        "l1": (weights * (done.pixels - pixels).abs()).mean(),
        "entropy": done.entropy_loss,
        "commitment": done.commitment_loss,
        "separation": (F.relu(agreement - (bits - 2.0 * margin)) * others).sum(dim=1).mean(),
    }


def _background(tiles: np.ndarray, counts: np.ndarray, grounds: int | None) -> np.ndarray:
    """Which pixels are background, (M, h, w) bool: see `TokenizerTraining.grounds`."""
    if grounds is None:
        packed = (tiles.astype(np.int64) * np.array([1 << 16, 1 << 8, 1])).sum(-1)
        colors, pixels = np.unique(packed, return_counts=True)
        return packed == colors[pixels.argmax()]
    blank = tiles[np.argsort(-counts, kind="stable")[:grounds]]
    rim = np.ones(tiles.shape[1:3], dtype=bool)
    rim[1:-1, 1:-1] = False
    apart = [np.abs(tiles[:, rim].astype(np.int16) - one[rim]).sum((1, 2)) for one in blank]
    return (tiles == blank[np.argmin(apart, axis=0)]).all(-1)
