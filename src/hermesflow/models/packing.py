"""Attention of packed sequences: a beginning that several rows share stands once, what follows it behind it.

    texts about an image:  <image> | prompt completion completion, prompt completion, ..
    images from a text:    <prompt> | image, image, ..

Exact, not an approximation: in Show-o nothing that is shared sees what follows it. Each part attends to what it may see
and to nothing else, so no product is computed to be masked but within the texts of one image, which are short.
Source: Show-o (arXiv 2408.12528) section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hermesflow.models import prompting
from hermesflow.models.prompting import TextTree, TokenIds

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""attend(layer, query, key, value) -> attention's output; each (B, H, L, d)."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, (B, H, L, d) each."""


class Forward(Protocol):
    """Runs a decoder."""

    def __call__(self, tokens: Tensor, *, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states (B, L, D) of tokens (B, L) at rotary positions (B or 1, L)."""


def attention(
    module: object,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    attend: Attend | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a transformers model: by `attend` where one is given, else under a boolean mask.

    (transformers' eager attention adds a boolean mask to the scores, which is silently wrong.)
    """
    if attend is None:
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    else:
        layer: Any = module
        found = attend(layer.layer_idx, query, key, value)
    return found.transpose(1, 2), None


class TextsBehindImages:
    """Images and, behind each, the texts about it.

    Args:
        image_length: columns of an image.
        mask: (B, 1, n, n) bool, what texts see of texts.
        kept: keys and values of all layers are added to it where one is given.
    """

    def __init__(self, image_length: int, mask: Tensor, kept: Layers | None = None) -> None:
        self._length, self._kept = image_length, kept
        images = mask.new_ones(1).expand(*mask.shape[:3], image_length)
        self._mask = torch.cat([images, mask], dim=3)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._kept is not None:
            self._kept.append((key, value))
        end = self._length
        image = scaled_dot_product_attention(query[:, :, :end], key[:, :, :end], value[:, :, :end])
        text = scaled_dot_product_attention(query[:, :, end:], key, value, attn_mask=self._mask)
        return torch.cat([image, text], dim=2)


class ImagesBehindPrompts:
    """Prompts, padded at the left, and behind each the images that are drawn from it.

    Args:
        padding: (B,) int64 on the CPU, padding tokens of each prompt.
        prompt_length: columns of a prompt, padding included.
        image_length: columns of an image.
        device: where the sequences are.
        kept: keys and values of all layers are added to it where one is given.
    """

    def __init__(
        self, padding: Tensor, prompt_length: int, image_length: int, *, device: torch.device, kept: Layers | None = None
    ) -> None:
        self._prompt, self._image, self._kept = prompt_length, image_length, kept
        self._causal = prompt_mask(padding, prompt_length, device=device)
        self._seen = block_mask(padding, prompt_length, image_length, device=device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self._kept is not None:
            self._kept.append((key, value))
        end, parts = self._prompt, []
        for start in range(end, query.shape[2], self._image):
            own = slice(start, start + self._image)
            keys, values = (torch.cat([x[:, :, :end], x[:, :, own]], dim=2) for x in (key, value))
            parts.append(scaled_dot_product_attention(query[:, :, own], keys, values, attn_mask=self._seen))
        prompt = scaled_dot_product_attention(
            query[:, :, :end],
            key[:, :, :end],
            value[:, :, :end],
            attn_mask=self._causal,
            is_causal=self._causal is None,
        )
        return torch.cat([prompt, *parts], dim=2)


class BlocksBehindPrompts:
    """Images that are drawn again and again behind prompts whose keys and values are known.

    Args:
        prompts: keys and values of U prompts.
        rows: (B,) int64, the prompt of each image.
        mask: of `block_mask`, of the same rows.
    """

    def __init__(self, prompts: Layers, rows: Tensor, mask: Tensor | None) -> None:
        self._prompts, self._rows, self._mask = prompts, rows, mask

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        prompt_keys, prompt_values = self._prompts[layer]
        keys = torch.cat([prompt_keys[self._rows], key], dim=2)
        values = torch.cat([prompt_values[self._rows], value], dim=2)
        return scaled_dot_product_attention(query, keys, values, attn_mask=self._mask)


class RowsBehindImages:
    """One token per row behind the row's own text and the image it is about, whose keys and values are known.

    The rows of an image meet its keys and values in one product, so these are there once and are read once.

    Args:
        images: keys and values of I images.
        own: of N rows, (N, H, room, d); written to.
        owners: (N,) int64 on the CPU, the image of each row.
        padding: (N, columns) bool, which of the first columns of `own` are padding.
        length: columns of `own` that are filled.
    """

    def __init__(self, images: Layers, own: Layers, owners: Tensor, padding: Tensor, *, length: int) -> None:
        self.length = length
        self._images, self._own, self._owners, self._padding = images, own, owners, padding
        counts = owners.bincount(minlength=len(images[0][0]))
        rows, order = torch.arange(len(owners)), owners.argsort(stable=True)
        slot = torch.empty_like(owners)
        slot[order] = rows - (counts.cumsum(0) - counts)[owners[order]]  # its place among the rows of its image
        grid = torch.zeros(len(counts), int(counts.max()), dtype=torch.int64)
        grid[owners, slot] = rows
        self._even = bool((counts == counts[0]).all() and (order == rows).all())
        self._grid, self._place = grid.to(padding.device), (owners.to(padding.device), slot.to(padding.device))

    def of(self, rows: Tensor) -> RowsBehindImages:
        """The same of some rows, (K,) int64 on the CPU; images that none of them is about are dropped."""
        left, owners = self._owners[rows].unique(return_inverse=True)
        images = self._images if len(left) == len(self._grid) else _selected(self._images, left)
        padding = self._padding[rows.to(self._padding.device)]
        return RowsBehindImages(images, _selected(self._own, rows), owners, padding, length=self.length)

    def make_room(self, columns: int) -> None:
        """See to it that there is room for a token; adds so many columns where there is none."""
        if self.length == self._own[0][0].shape[2]:
            self._own = [(_wider(keys, columns), _wider(values, columns)) for keys, values in self._own]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        image_keys, image_values = self._images[layer]
        own_keys, own_values = self._own[layer]
        end = self.length + 1
        own_keys[:, :, self.length : end], own_values[:, :, self.length : end] = key, value
        image = torch.matmul(self._gathered(query[:, :, 0]), image_keys.transpose(2, 3))  # (I, H, R, P)
        own = torch.matmul(query, own_keys[:, :, :end].transpose(2, 3))[:, :, 0]  # (N, H, end)
        own[:, :, : self._padding.shape[1]].masked_fill_(self._padding[:, None], -torch.inf)
        scores = torch.cat([self._scattered(image), own], dim=2) * query.shape[3] ** -0.5
        weights = scores.softmax(dim=2, dtype=torch.float32).to(query.dtype)
        split = image_keys.shape[2]
        seen = torch.matmul(self._gathered(weights[:, :, :split]), image_values)  # (I, H, R, d)
        said = torch.matmul(weights[:, :, None, split:], own_values[:, :, :end])  # (N, H, 1, d)
        return said + self._scattered(seen)[:, :, None]

    def _gathered(self, rows: Tensor) -> Tensor:
        """(N, H, x) by image, (I, H, R, x)."""
        grid = rows.unflatten(0, self._grid.shape) if self._even else rows[self._grid]
        return grid.transpose(1, 2)

    def _scattered(self, grid: Tensor) -> Tensor:
        """(I, H, R, x) by row, (N, H, x)."""
        by_slot = grid.transpose(1, 2)
        return by_slot.flatten(0, 1) if self._even else by_slot[self._place]


def texts_behind_images(
    forward: Forward,
    ids: TokenIds,
    codes: Tensor,
    trees: Sequence[TextTree],
    group: Tensor,
    *,
    kept: Layers | None = None,
) -> Tensor:
    """Hidden states of the texts about some images, (g, n, D), padded at the right.

    Args:
        forward: the decoder.
        ids: the vocabulary.
        codes: (I, T) int64 images.
        trees: the texts about each.
        group: (g,) int64 on the CPU, the images to run.
        kept: keys and values of all layers are added to it where one is given, images before texts.
    """
    images = prompting.understanding_images(ids, codes[group.to(codes.device)])
    texts, places, mask = (x.to(codes.device) for x in prompting.pad_trees(ids, [trees[i] for i in group.tolist()]))
    length = images.shape[1]
    before = torch.arange(length, device=codes.device).expand(len(group), -1)
    attend = TextsBehindImages(length, mask, kept)
    positions = torch.cat([before, length + places], dim=1)
    return forward(torch.cat([images, texts], dim=1), positions=positions, attend=attend)[:, length:]


def groups(lengths: Sequence[int], *, bound: float, together: int) -> list[Tensor]:
    """Sequences of like length in groups that run together: (g,) int64 indices each.

    How many there are follows from counts, not from the lengths: processes that share weights must call alike.

    Args:
        lengths: of the sequences.
        bound: how long they are at most, on the average.
        together: tokens that run together.
    """
    order = torch.tensor(list(lengths), dtype=torch.int64).argsort(stable=True)
    return list(order.split(max(int(together / bound), 1)))


def prompt_mask(padding: Tensor, length: int, *, device: torch.device) -> Tensor | None:
    """Mask within prompts padded at the left, (B, 1, L, L) bool; None (plainly causal) where none is padded."""
    if not padding.any():
        return None
    place = torch.arange(length)
    query, key, first = place[:, None], place[None, :], padding[:, None, None]
    return ((key <= query) & ((key >= first) | (query < first)))[:, None].to(device)


def block_mask(padding: Tensor, prompt_length: int, image_length: int, *, device: torch.device) -> Tensor | None:
    """What an image sees of its prompt and of itself, (B, 1, 1, P + T) bool; None (all) where none is padded."""
    if not padding.any():
        return None
    place = torch.arange(prompt_length + image_length)
    return (place >= padding[:, None])[:, None, None].to(device)


def _selected(layers: Layers, rows: Tensor) -> Layers:
    rows = rows.to(layers[0][0].device)
    return [(keys[rows], values[rows]) for keys, values in layers]


def _wider(buffer: Tensor, columns: int) -> Tensor:
    batch, heads, length, width = buffer.shape
    grown = buffer.new_empty(batch, heads, length + columns, width)
    grown[:, :, :length] = buffer
    return grown
