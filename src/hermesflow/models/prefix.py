"""A prefix that several training rows share: run once, continued by each, with gradients through both."""

from __future__ import annotations

import torch
from torch import Tensor

Layers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values, (I, H, L, d) each, by layer."""


def after(prefix: Tensor, continuation: Tensor) -> Tensor:
    """The continuation's hidden states, unchanged, with the prefix's in their graph.

    Keys and values leave a layer beside its output. Where weights are sharded (FSDP), they are gathered for the
    gradient when that of the output arrives; the last layer's output of a prefix, which nothing reads, would get none.
    """
    return _After.apply(prefix, continuation)


class _After(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, prefix: Tensor, continuation: Tensor) -> Tensor:
        return continuation.view_as(continuation)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


class SharedPrefix:
    """Keys and values of every layer of I prefixes, while they run.

    Unlike `sessions.KeyValues` nothing is written in place, so gradients flow. Exact, not an approximation: in
    Show-o's attention an image never sees the text behind it.
    """

    def __init__(self) -> None:
        self._layers: Layers = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keys and values that a block (B, H, L, d) attends to; transformers calls this by name."""
        self._layers.setdefault(layer, (keys, values))  # recomputed activations come a second time
        return keys, values

    def continued_by(self, owners: Tensor) -> Continuation:
        """For blocks that follow: row i of them continues prefix owners[i], (N,) int64."""
        return Continuation(self._layers, owners)


class Continuation:
    """What N rows see of the prefixes before them."""

    def __init__(self, layers: Layers, owners: Tensor) -> None:
        self._layers, self._owners = layers, owners

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """As `SharedPrefix.update`, with the prefix before the block."""
        prefix_keys, prefix_values = self._layers[layer]
        return (
            torch.cat([prefix_keys[self._owners], keys], dim=2),
            torch.cat([prefix_values[self._owners], values], dim=2),
        )
