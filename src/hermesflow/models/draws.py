"""Random draws that depend on their own row alone: each row has a generator and reads a fixed number of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hermesflow.core.finite import check_finite

KEEP_BELOW = 0.75
"""Rows of texts that ended are dropped when fewer than this share are left."""
_BLOCK = 64  # entries whose weights are added up before one is drawn


def uniforms_per_row(generators: Sequence[torch.Generator], shape: tuple[int, ...], rows: int) -> Tensor:
    """Uniform numbers in [0, 1), (rows, *shape) on the CPU, those of row i from generators[i], which is advanced.

    Raises:
        ValueError: not one generator per row.
    """
    if len(generators) != rows:
        raise ValueError(f"{rows} rows need as many generators; found {len(generators)}")
    values = [torch.rand(shape, generator=generator) for generator in generators]
    return torch.stack(values) if values else torch.empty(0, *shape)


def inverse_cdf(weights: Tensor, uniforms: Tensor, what: Callable[[int], str] = "row {}".format) -> Tensor:
    """Categorical draws from one uniform each.

    Args:
        weights: (..., C) float, not negative, not all zero; need not add up to one.
        uniforms: (...) float in [0, 1).
        what: names a row of weights, counted over all leading dimensions, for the error.

    Returns:
        (...) int64 in [0, C); never an entry of weight 0.

    Raises:
        NotFiniteError: the weights of a row add up to no number, as those of a soft-max do where logits are nan or inf.
    """
    if weights.shape[-1] % _BLOCK:
        cumulative = weights.cumsum(dim=-1)
        check_finite(cumulative[..., -1].flatten(), lambda row: f"a logit of {what(row)}")
        return _place_of(cumulative, uniforms * cumulative[..., -1])
    # a block first, then an entry of it: running sums are slow
    blocks = weights.unflatten(-1, (-1, _BLOCK))
    cumulative = blocks.sum(dim=-1).cumsum(dim=-1)
    check_finite(cumulative[..., -1].flatten(), lambda row: f"a logit of {what(row)}")
    target = uniforms * cumulative[..., -1]
    block = _place_of(cumulative, target)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(-1, block[..., None])[..., 0]
    chosen = blocks.gather(-2, block[..., None, None].expand(*block.shape, 1, _BLOCK))[..., 0, :]
    return block * _BLOCK + _place_of(chosen.cumsum(dim=-1), target - before)


def sessions(rows: int, most: int) -> list[slice]:
    """Rows cut into sessions of at most `most`, as equal as may be."""
    count = max(math.ceil(rows / most), 1)
    each = math.ceil(rows / count)
    return [slice(start, min(start + each, rows)) for start in range(0, rows, max(each, 1))]


def _place_of(cumulative: Tensor, target: Tensor) -> Tensor:
    """The entry whose share of the running sums (..., C) the target (...) falls into."""
    place = torch.searchsorted(cumulative, target[..., None], right=True)[..., 0]
    # rounding may put the target on the total: then the last entry that has weight
    last = torch.searchsorted(cumulative, cumulative[..., -1:].contiguous())[..., 0]
    return torch.minimum(place, last)
