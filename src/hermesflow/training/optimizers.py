"""AdamW in one fused kernel, whose steps are seen by what keeps copies of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW(fused=True)` that counts its steps as changes of the parameters (`Tensor._version`).

    torch 2.13's fused kernel does not, and copies of weights in another layout (`models/kernels.Layout`) would stay
    those of before the step.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, fused=True, **options)
        self.register_step_post_hook(_count)


def _count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(group["params"])
