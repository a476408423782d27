"""Stage `encode`: image tokens of every real image, once."""

from __future__ import annotations

import numpy as np
import torch

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout, write_codes
from hermesflow.core.progress import Progress
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.showo.magvit import BATCH_PIXELS, load_tokenizer, to_pixels

SPLITS = ("base", "pairs", "gap", "understanding")


def run(config: Config, layout: Layout) -> None:
    """Write `codes/{split}.npy`, (N, 1, T) uint16, for every split that has images to be understood."""
    torch.set_num_threads(config.runtime.tokenizer_threads)
    tokenizer = load_tokenizer(layout.tokenizer, device=torch.device(config.runtime.device)).eval()
    for split in SPLITS:
        pairs = read_pairs(layout.data(split))
        progress = Progress(len(pairs), f"image tokens of {split}", "image")
        codes = []
        size = images_together(images_of(pairs.select(range(min(1, len(pairs))))))
        for start in range(0, len(pairs), size):
            rows = pairs.select(range(start, min(start + size, len(pairs))))
            with torch.inference_mode():
                codes.append(tokenizer.encode(to_pixels(images_of(rows)).to(config.runtime.device)).cpu().numpy())
            progress.advance(len(rows))
        none = np.zeros((0, 0), dtype=np.uint16)  # split `base` is empty where the model has released weights
        write_codes(layout.codes(split), list(pairs["id"]), np.concatenate(codes or [none])[:, None])


def images_together(images: np.ndarray) -> int:
    """Images of the size of these that make up `BATCH_PIXELS`, at least one."""
    return max(BATCH_PIXELS // max(images.shape[1] * images.shape[2], 1), 1)
