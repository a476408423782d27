"""Log-probabilities of token sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_logps(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Sum over the scored positions of log p(target), one value per row.

    Position j of `logits` predicts position j of `targets`; shifting is the caller's work. The soft-max is taken only
    at scored positions, in float32: with a vocabulary of 58,498 the others would fill most of the memory.

    Args:
        logits: (B, L, V) any float type.
        targets: (B, L) int64; any value, valid or not, where `mask` is False.
        mask: (B, L) bool, True where the target is scored.

    Returns:
        (B,) float32 nats; 0 for a row without scored positions.

    Raises:
        ValueError: shapes do not fit, or the mask is not boolean.
    """
    if logits.shape[:-1] != targets.shape or mask.shape != targets.shape or targets.ndim != 2:
        raise ValueError(
            f"expected logits (B, L, V), targets (B, L), mask (B, L); "
            f"found {tuple(logits.shape)}, {tuple(targets.shape)}, {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is boolean; found {mask.dtype}")
    token_logps = -F.cross_entropy(logits[mask].float(), targets[mask], reduction="none")
    return token_logps.new_zeros(mask.shape).masked_scatter(mask, token_logps).sum(dim=1)
