"""Defects of the released code in the Pair-DPO step and around it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hermesflow.config.sections import Defect, Training
from hermesflow.core.seeding import seed_of

PROMPT_DROPOUT = 0.1
WARMUP = 5000 / 3000
"""Warm-up steps per trained step: the released config warms up over 5,000 steps, of which 3,000 are trained."""


def dropped_prompts(captions: Sequence[str], names: Sequence[tuple[str | int, ...]]) -> list[str]:
    """`prompt_dropout`: one caption in ten is emptied, drawn for chosen and rejected apart.

    Args:
        captions: B captions.
        names: B names of their draws.

    Returns:
        2 B prompts: of chosen, then of rejected images.
    """
    return [
        "" if seed_of(*name, side) / 2**63 < PROMPT_DROPOUT else caption
        for side in ("chosen", "rejected")
        for caption, name in zip(captions, names, strict=True)
    ]


def spoiled_deltas(
    delta_mmu: Tensor, delta_t2i: Tensor, defects: Collection[Defect], *, beta: float
) -> tuple[Tensor, Tensor]:
    """`batch_sums` and `unstable_sigmoid`: what goes into the sigmoids in place of one pair's deltas.

    Log-probs were summed over a process's batch, so one sigmoid judged all its pairs together. And -log(sigmoid(x)) was
    taken in two steps: where the sigmoid is 0 in floating point, its logarithm is infinite.

    Args:
        delta_mmu: (B,) nats.
        delta_t2i: (B,) nats.
        defects: which to follow.
        beta: of the loss.
    """
    deltas = [delta_mmu, delta_t2i]
    if "batch_sums" in defects:
        deltas = [delta.sum().expand(len(delta)) for delta in deltas]
    if "unstable_sigmoid" in defects:
        deltas = [delta.masked_fill(torch.sigmoid(beta * delta) == 0, -math.inf) for delta in deltas]
    return deltas[0], deltas[1]


def training_of(settings: Training, defects: Collection[Defect]) -> Training:
    """`endless_warmup`: the learning rate rises until the last step and never reaches its value."""
    if "endless_warmup" not in defects:
        return settings
    return replace(settings, warmup_steps=math.ceil(settings.steps * WARMUP))
