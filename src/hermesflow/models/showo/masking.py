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


def draw_mask(num_tokens: int, generator: torch.Generator, *, schedule: MaskSchedule) -> Tensor:
    """A random mask whose masked share follows a schedule at a uniform ratio.

    Args:
        num_tokens: T, image tokens per image.
        generator: CPU generator; advanced.
        schedule: one of `SCHEDULES`.

    Returns:
        (T,) bool on the CPU, True where a token is masked; at least one is.

    Source: Chang et al. 2022 (MaskGIT), section 3.2.
    """
    share = SCHEDULES[schedule](torch.rand((), generator=generator))
    count = max(1, round(num_tokens * share.item()))
    mask = torch.zeros(num_tokens, dtype=torch.bool)
    mask[torch.randperm(num_tokens, generator=generator)[:count]] = True
    return mask


def pair_mask(name: NoiseName, *, num_tokens: int, schedule: MaskSchedule) -> Tensor:
    """The one mask of a pair in one pass: chosen and rejected, policy and reference are all scored under it.

    It is named by run seed, self-play iteration, pair and pass alone, so every objective of an iteration meets the
    same masks, whatever its batches are, and a resumed run draws them again.

    Returns:
        (T,) bool on the CPU.

    Source: HermesFlow section 3.3.
    """
    seed, iteration, pair_id, pass_ = name
    return draw_mask(num_tokens, named_generator(seed, iteration, "mask", pair_id, pass_), schedule=schedule)
