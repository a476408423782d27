"""Log-probabilities of tokens; the logits of all of them are never there together."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hermesflow.models.kernels import product

LOGITS = 2**26
"""Logits that are there together: 256 MiB of float32."""


def token_logps(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    """Log p(target) at scored places, (S,) float32 nats.

    Logits are made at scored places only, and where these are many chunk by chunk, and again for the gradient: with a
    vocabulary of 58,498 they would fill most of the memory.

    Args:
        hidden: (S, D) last hidden states.
        targets: (S,) int64.
        head: D to the vocabulary.

    Raises:
        ValueError: shapes do not fit.
    """
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"expected hidden (S, D), targets (S,); found {tuple(hidden.shape)}, {tuple(targets.shape)}")
    size = max(LOGITS // head.out_features, 1)
    mixed = hidden.dtype != torch.float32 or torch.is_autocast_enabled(hidden.device.type)
    if not mixed and not torch.is_inference_mode_enabled():  # with and without gradients alike, to the last bit
        return _Logps.apply(hidden, head.weight, head.bias, targets, size)  # type: ignore[no-any-return]
    chunks = list(zip(hidden.split(size), targets.split(size), strict=True))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([_plain(*chunk, head) for chunk in chunks])
    return torch.cat([checkpoint(_plain, *chunk, head, use_reentrant=False) for chunk in chunks])


def row_sums(logps: Tensor, scored: Tensor) -> Tensor:
    """Sums by row, (B,), of the scored places' (S,), row by row; 0 for a row without any.

    Args:
        logps: (S,) of the places where `scored` is True, in its order.
        scored: (B, K) bool.
    """
    return logps.new_zeros(scored.shape).masked_scatter(scored, logps).sum(dim=1)


def _plain(hidden: Tensor, targets: Tensor, head: nn.Linear) -> Tensor:
    return -F.cross_entropy(head(hidden).float(), targets, reduction="none")


class _Logps(torch.autograd.Function):
    """`_plain` with one copy of the logits instead of three: the soft-max, and then the gradient, take their place."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, size: int) -> Tensor:
        parts, likely = [], None
        for states, places in zip(hidden.split(size), targets.split(size), strict=True):
            likely, logps = _softmax(states, weight, bias, places)
            parts.append(logps)
        ctx.likely, ctx.size = likely if len(parts) == 1 else None, size
        ctx.save_for_backward(hidden, weight, bias, targets)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, targets = ctx.saved_tensors
        trained = ctx.needs_input_grad[1]
        to_hidden, to_weight, to_bias = [], None, None
        parts = (x.split(ctx.size) for x in (hidden, targets, gradients[0]))
        for states, places, gradient in zip(*parts, strict=True):
            likely = _softmax(states, weight, bias, places)[0] if ctx.likely is None else ctx.likely
            ctx.likely = None
            likely.mul_(-gradient[:, None])
            likely[torch.arange(len(places), device=places.device), places] += gradient
            to_hidden.append(product(likely, weight.T))
            if trained:
                to_weight = _sum(to_weight, product(likely.T, states.T))
            if trained and bias is not None:
                to_bias = _sum(to_bias, likely.sum(dim=0))
        return torch.cat(to_hidden), to_weight, to_bias, None, None


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (S, V), and the log-probabilities of the targets (S,)."""
    logits = product(hidden, weight, bias)
    logits -= logits.amax(dim=1, keepdim=True)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    total = logits.exp_().sum(dim=1)
    return logits.div_(total[:, None]), chosen - total.log()
