"""A defect of the released configs: sampled at 512 px, trained on at 256."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from hermesflow.models.showo.magvit import MagVitV2, to_images, to_pixels


def smaller_images(
    codes: Iterable[Sequence[int]], tokenizer: MagVitV2, *, device: torch.device | str
) -> list[np.ndarray]:
    """`smaller_images`: drawn images are trained on at half the side they were sampled at (512 and 256 pixels).

    Args:
        codes: N images of T codes each.
        tokenizer: the image tokenizer.
        device: where it is.

    Returns:
        N images, (T / 4,) int64 codes each: decoded, scaled (bicubic) and encoded again.
    """
    small = []
    for row in codes:
        with torch.inference_mode():
            pixels = tokenizer.decode(torch.tensor([list(row)], dtype=torch.int64, device=device))
        small += smaller_pictures(to_images(pixels), tokenizer, device=device)
    return small


def smaller_pictures(images: np.ndarray, tokenizer: MagVitV2, *, device: torch.device | str) -> list[np.ndarray]:
    """`smaller_images` of pictures, (N, H, W, 3) uint8."""
    small = []
    for image in images:
        half = Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.BICUBIC)
        with torch.inference_mode():
            codes = tokenizer.encode(to_pixels(np.asarray(half)[None]).to(device))
        small.append(codes[0].cpu().numpy())
    return small
