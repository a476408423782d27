"""Random masks over image tokens, as MaskGIT trains with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hermesflow.config.sections import MaskSchedule
from hermesflow.core.seeding import generator as named_generator
from hermesflow.models.backbone import NoiseName

SCHEDULES: dict[MaskSchedule, Callable[[Tensor], Tensor]] = {
    "cosine": lambda ratio: torch.cos(ratio * (math.pi / 2)),
    "linear": lambda ratio: 1 - ratio,
    "square_root": lambda ratio: 1 - ratio.sqrt(),
}
"""Share of image tokens that are masked at `ratio` (0 to 1) of the way from noise to image.

`cosine` is the paper's and masks most (0.64 on average); `linear` 0.5, `square_root` 0.33.
Source: Chang et al. 2022 (MaskGIT), section 3.3.
"""


INVERSES: dict[MaskSchedule, Callable[[float], float]] = {
    "cosine": lambda share: math.acos(share) / (math.pi / 2),
    "linear": lambda share: 1 - share,
    "square_root": lambda share: (1 - share) ** 2,
}
"""The ratio at which a schedule has a share."""


def ratios_between(schedule: MaskSchedule, shares: tuple[float, float], uniform: Tensor) -> Tensor:
    """Ratios at which a schedule's share lies between two, uniform numbers from 0 to 1 spread over them."""
    first, last = (INVERSES[schedule](share) for share in reversed(shares))
    return first + (last - first) * uniform


def draw_mask(
    num_tokens: int,
    generator: torch.Generator,
    *,
    schedule: MaskSchedule,
    mask_ratios: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """A random mask whose masked share follows a schedule at a uniform ratio, or the part of it between two shares.

    Args:
        num_tokens: T, image tokens per image.
        generator: CPU generator; advanced.
        schedule: one of `SCHEDULES`.
        mask_ratios: least and greatest share of masked tokens, before it is rounded to whole tokens.

    Returns:
        (T,) bool on the CPU, True where a token is masked; at least one is.

    Source: Chang et al. 2022 (MaskGIT), section 3.2.
    """
    ratio = ratios_between(schedule, mask_ratios, torch.rand((), generator=generator))
    share = min(max(SCHEDULES[schedule](ratio).item(), mask_ratios[0]), mask_ratios[1])  # float32 may miss an end
    count = max(1, round(num_tokens * share))
    mask = torch.zeros(num_tokens, dtype=torch.bool)
    mask[torch.randperm(num_tokens, generator=generator)[:count]] = True
    return mask


def pair_mask(
    name: NoiseName, *, num_tokens: int, schedule: MaskSchedule, mask_ratios: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """The one mask of a pair in one pass: chosen and rejected, policy and reference are all scored under it.

    It is named by run seed, self-play iteration, pair and pass alone, so every objective of an iteration meets the
    same masks, whatever its batches are, and a resumed run draws them again.

    Returns:
        (T,) bool on the CPU.

    Source: HermesFlow section 3.3.
    """
    seed, iteration, pair_id, pass_ = name
    generator = named_generator(seed, iteration, "mask", pair_id, pass_)
    return draw_mask(num_tokens, generator, schedule=schedule, mask_ratios=mask_ratios)
