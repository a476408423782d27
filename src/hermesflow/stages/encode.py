"""Stage `encode`: every real image once, as understanding reads it and as generation is pre-trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.core.files import Layout
from hermesflow.core.images import ImageForm, read_images, write_images
from hermesflow.core.progress import Progress
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.models.backbone import load_codec

SPLITS = ("base", "pairs", "gap", "understanding")
TOGETHER = 250 * 48**2
"""Pixels of images that are read together (memory only)."""


def run(config: Config, layout: Layout) -> None:
    """Write `images/seen/{split}.npy`, (N, 1, *seen), and `images/generated/base.npy`, (N, 1, *generated)."""
    torch.set_num_threads(config.runtime.tokenizer_threads)
    codec = load_codec(layout.tokenizer, device=torch.device(config.runtime.device))
    for split in SPLITS:
        _write(layout.data(split), layout.seen(split), codec.see, codec.seen, f"images of {split} as they are seen")
    if codec.seen == codec.generated:  # then they are the same arrays
        write_images(layout.generated, *read_images(layout.seen("base")), codec.generated)
        return
    _write(layout.data("base"), layout.generated, codec.encode, codec.generated, "images of base as they are generated")


def _write(data: Path, path: Path, encode: Callable[[np.ndarray], Tensor], form: ImageForm, what: str) -> None:
    pairs = read_pairs(data)
    progress, parts = Progress(len(pairs), what, "image"), [form.empty(0)]
    size = images_together(images_of(pairs.select(range(min(1, len(pairs))))))
    for start in range(0, len(pairs), size):
        rows = pairs.select(range(start, min(start + size, len(pairs))))
        parts.append(encode(images_of(rows)).numpy())
        progress.advance(len(rows))
    write_images(path, list(pairs["id"]), np.concatenate(parts)[:, None], form)


def images_together(images: np.ndarray) -> int:
    """Images of the size of these that make up `TOGETHER` pixels, at least one."""
    return max(TOGETHER // max(images.shape[1] * images.shape[2], 1), 1)
