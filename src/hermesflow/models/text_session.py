"""Cached writing of texts: image and prompt prefixes are computed once and shared by the rows that need them.

Source: no prefix sees what comes after it, so its keys and values stay valid for the whole decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hermesflow.models import grouping
from hermesflow.models.packing import Forward, Layers, RowsBehindImages
from hermesflow.models.trees import Prompted, TextTree

GROWTH = 16  # columns that room is made for when there is none left


class Prefill(Protocol):
    """Runs the texts about some images."""

    def __call__(self, images: list[int], trees: list[TextTree], /, *, cache: Layers) -> Tensor:
        """Hidden states of the texts, tree after tree, (N, D); adds keys and values, images first, to `cache`."""


def unique_rows(keys: Sequence[object]) -> tuple[list[int], list[int]]:
    """Index of the first of each different key, and for every key the index among those."""
    first: dict[object, int] = {}
    places: list[int] = []
    for i, key in enumerate(keys):
        if key not in first:
            first[key] = len(places)
            places.append(i)
    return places, [first[key] for key in keys]


class CachedTextSession:
    """Writes N texts; implements `backbone.TextSession`.

    Args:
        forward: the decoder.
        head: logits over the vocabulary.
        prefill: runs images and what texts about them begin with.
        texts: the beginnings of N texts about I images, each of which has one.
        image_length: P, columns before a text.
        max_text_tokens: longest prompt, that sequences are grouped by.
        together: tokens that run together.
        device: where the model is.
    """

    logits: Tensor

    def __init__(
        self,
        forward: Forward,
        head: Callable[[Tensor], Tensor],
        prefill: Prefill,
        texts: Prompted,
        *,
        image_length: int,
        max_text_tokens: int,
        together: int,
        device: torch.device,
    ) -> None:
        self._forward, self._head, self._device = forward, head, device
        with torch.inference_mode():
            self._prefill(prefill, texts, prefix=image_length, together=together, max_text_tokens=max_text_tokens)

    def _prefill(self, prefill: Prefill, texts: Prompted, *, prefix: int, together: int, max_text_tokens: int) -> None:
        trees, size, count = texts.trees, len(texts.places), len(texts.trees)
        owners = torch.tensor([image for image, _ in texts.places])
        ends = torch.tensor([trees[image].ends[prompt] for image, prompt in texts.places])
        lengths = 1 + torch.tensor([trees[i].positions[end] for i, end in zip(owners, ends.tolist(), strict=True)])
        longest = int(lengths.max())
        columns = ends[:, None] - torch.arange(longest - 1, -1, -1)  # of its tree; padded at the left
        images: Layers = []
        row_cache: Layers = []
        last: Tensor | None = None
        bound = prefix + size / count * max_text_tokens
        for group in grouping.groups([len(tree.tokens) for tree in trees], bound=bound, together=together):
            cache: Layers = []
            group_trees = [trees[i] for i in group.tolist()]
            hidden = prefill(group.tolist(), group_trees, cache=cache)
            starts = torch.zeros(count, dtype=torch.int64)
            starts[group] = torch.tensor(grouping.starts(group_trees))
            rows = torch.isin(owners, group).nonzero()[:, 0]
            place = starts[owners[rows]]
            text = (place[:, None] + columns[rows]).clamp_min(0).to(self._device)
            if last is None:
                last = hidden.new_empty(size, hidden.shape[1])
                for pair in cache:
                    heads, width = pair[0].shape[1], pair[0].shape[3]
                    images.append(room(pair, count, heads, prefix, width))
                    row_cache.append(room(pair, size, heads, longest + GROWTH, width))
            last[rows.to(self._device)] = hidden[(place + ends[rows]).to(self._device)]
            split = len(group) * prefix
            for layer, pair in enumerate(cache):
                for x, image, row in zip(pair, images[layer], row_cache[layer], strict=True):
                    image[group.to(self._device)] = x[0, :, :split].unflatten(1, (len(group), prefix)).transpose(0, 1)
                    row[rows.to(self._device), :, :longest] = x[0, :, split:][:, text].transpose(0, 1)
        assert last is not None
        self.logits = self._head(last)
        self._positions = (prefix + lengths - 1)[:, None].to(self._device)
        padding = (torch.arange(longest) < (longest - lengths)[:, None]).to(self._device)
        self._attend = RowsBehindImages(images, row_cache, owners, padding, length=longest)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, (N,) int64; returns the next logits (N, V)."""
        self._attend.make_room(GROWTH)
        self._positions = self._positions + 1
        hidden = self._forward(tokens.to(self._device)[:, None], positions=self._positions, attend=self._attend)
        self._attend.length += 1
        self.logits = self._head(hidden[:, -1])
        return self.logits

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (K,) int64."""
        self._attend = self._attend.of(rows.cpu())
        rows = rows.to(self._device)
        self._positions, self.logits = self._positions[rows], self.logits[rows]


def room(like: tuple[Tensor, Tensor], *shape: int) -> tuple[Tensor, Tensor]:
    """Memory for keys and values of a shape, of the number type of others."""
    return like[0].new_empty(shape), like[1].new_empty(shape)
