"""How many image tokens are masked: on the average of training, and step by step of MaskGIT."""

from __future__ import annotations

import math

import torch

from hermesflow.config.sections import MaskSchedule
from hermesflow.models.showo.masking import SCHEDULES, ratios_between


def expected_masked(schedule: MaskSchedule, *, tokens: int, mask_ratios: tuple[float, float] = (0.0, 1.0)) -> float:
    """Image tokens that are scored of a row, on the average."""
    ratio = ratios_between(schedule, mask_ratios, (torch.arange(2000) + 0.5) / 2000)
    return max(1.0, tokens * SCHEDULES[schedule](ratio).mean().item())


def masked_counts(tokens: int, steps: int) -> list[int]:
    """Places that are masked when each step of MaskGIT begins, by the cosine schedule."""
    counts = [tokens]
    for step in range(steps - 1):
        share = math.cos((step + 1) / steps * math.pi / 2)
        counts.append(max(min(counts[-1] - 1, math.floor(tokens * share)), 1))
    return counts
