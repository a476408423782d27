"""Omni-attention masks of Show-o: text is causal, an image block is seen whole.

What the packed attention of `hermesflow.models.packing` must come to, row by row. All masks are boolean, True =
may attend, for scaled_dot_product_attention.
Source: Show-o (arXiv 2408.12528) section 3.2, figure 3.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generation_mask(padding: Tensor, prompt_length: int, image_length: int) -> Tensor:
    """Mask of text-to-image rows `[padding, prompt, image]`.

    The prompt is causal; the image block (its two boundary tokens included) sees the prompt and itself in both
    directions. Nothing but padding sees padding.

    Args:
        padding: (B,) int64, number of padding tokens at the left of each row.
        prompt_length: columns before the image block, padding included.
        image_length: columns of the image block.

    Returns:
        (B, 1, L, L) bool, L = prompt_length + image_length.
    """
    place = torch.arange(prompt_length + image_length, device=padding.device)
    query, key = place[:, None], place[None, :]
    allowed = (key <= query) | (query >= prompt_length)
    first = padding[:, None, None]
    return (allowed & ((key >= first) | (query < first)))[:, None]


def understanding_mask(image_length: int, text_length: int, *, device: torch.device | None = None) -> Tensor:
    """Mask of image-to-text rows `[image, text, padding]`.

    The image block (task token and boundary tokens included) sees itself in both directions; the text is causal, so
    padding at the right is seen by nobody that counts.

    Returns:
        (1, 1, L, L) bool, L = image_length + text_length.
    """
    place = torch.arange(image_length + text_length, device=device)
    query, key = place[:, None], place[None, :]
    return ((key <= query) | (key < image_length))[None, None]
