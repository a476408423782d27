"""A prefix that several training rows share: run once, continued by each, with gradients through both."""

from __future__ import annotations

import torch
from torch import Tensor


class SharedPrefix:
    """Keys and values of every layer, first of I prefixes, then seen by N rows that continue them.

    Unlike `sessions.KeyValues` nothing is written in place, so gradients flow. Exact, not an approximation: in
    Show-o's attention an image never sees the text behind it.
    """

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._owners: Tensor | None = None

    def continue_with(self, owners: Tensor) -> None:
        """From now on, blocks are continuations: row i of them follows prefix owners[i], (N,) int64."""
        self._owners = owners

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Keys and values that a block (B, H, L, d) attends to; transformers calls this by name."""
        if self._owners is None:
            self._layers.append((keys, values))
            return keys, values
        prefix_keys, prefix_values = self._layers[layer]
        return (
            torch.cat([prefix_keys[self._owners], keys], dim=2),
            torch.cat([prefix_values[self._owners], values], dim=2),
        )
