"""Attention of packed sequences: a beginning that several rows share stands once, what follows it behind it.

    texts about images:  <image> <image> .. | prompt completion completion, prompt completion, ..
    images from texts:   <prompt> <prompt> .. | image, image, ..

All of it is one sequence without padding. Each part attends to what it may see and to nothing else; padding and masks
are within attention alone, where texts of different lengths meet. Exact, not an approximation: nothing that is shared
sees what follows it. The tokens of an image see all of it, or where it is `causal` those before them alone.
Source: Show-o (arXiv 2408.12528) section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hermesflow.models import trees
from hermesflow.models.trees import TextTree

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""attend(layer, query, key, value), each (B, H, L, d) -> attention's output, (B, L, H, d); keys may have
fewer heads."""
Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, (B, H, L, d) each."""
Embed = Callable[[Tensor], Tensor]
"""Input states (N, D) of token ids (N,)."""


class Forward(Protocol):
    """Runs a decoder."""

    def __call__(self, tokens: Tensor, *, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states (B, L, D) of token ids (B, L), or input states (B, L, D), at positions (B or 1, L)."""


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
        return attended(query, key, value, attn_mask=mask).transpose(1, 2), None
    layer: Any = module
    return attend(layer.layer_idx, query, key, value), None


def attended(query: Tensor, keys: Tensor, values: Tensor, **settings: Any) -> Tensor:
    """Scaled dot-product attention; each head of keys and values may serve several heads of queries."""
    grouped = query.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(query, keys, values, enable_gqa=grouped, **settings)


class Ragged:
    """Sequences of different lengths: end to end (N tokens), or as a batch padded at the right (I, n).

    Args:
        lengths: of the I sequences.
        device: where they are.
    """

    def __init__(self, lengths: Sequence[int], *, device: torch.device) -> None:
        self.lengths, self.longest = torch.tensor(lengths), max(lengths)
        self.starts = torch.tensor(ends_before(lengths))
        self.device, self.even = device, min(lengths) == self.longest
        column = torch.arange(self.longest)
        valid = column < self.lengths[:, None]
        self._padding = (~valid).flatten().to(device)
        self._pad = torch.where(valid, self.starts[:, None] + column, 0).flatten().to(device)
        self._unpad = valid.flatten().nonzero()[:, 0].to(device)

    def pad(self, x: Tensor) -> Tensor:
        """(H, N, d) to (I, H, n, d); whatever stands at padding takes no part in gradients."""
        # a copy in any case: a part of x would keep all of it
        heads = x.clone() if self.even else _Take.apply(x, 1, self._pad, self._unpad, None)
        return heads.unflatten(1, (len(self.lengths), self.longest)).transpose(0, 1)

    def unpad(self, x: Tensor) -> Tensor:
        """Attention's output (I, H, n, d) to (N, H, d)."""
        tokens = x.transpose(1, 2).flatten(0, 1)
        return tokens if self.even else _Take.apply(tokens, 0, self._unpad, self._pad, self._padding)


def _split(x: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Columns (H, n, d) of a sequence (1, H, N, d) before `end` and from there on; the gradient is one copy of both."""
    before, behind = x.squeeze(0).split([end, x.shape[2] - end], dim=1)
    return before, behind


class _Take(torch.autograd.Function):
    """Entries by their index, none of them twice where it counts; the gradient is taken back the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, index: Tensor, back: Tensor, nothing: Tensor | None) -> Tensor:
        ctx.dim, ctx.back, ctx.nothing = dim, back, nothing
        return x.index_select(dim, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        gradient = gradients[0].index_select(ctx.dim, ctx.back)
        if ctx.nothing is not None:
            gradient[ctx.nothing] = 0
        return gradient, None, None, None, None


class TextsBehindImages:
    """Images, all of one length, and behind all of them the texts about each.

    Args:
        images: I, number of images.
        image_length: columns of an image.
        texts: the texts about each image.
        mask: (I, 1, n, n) bool, what texts see of texts.
        causal: whether tokens of an image see those before them alone.
        cache: keys and values of all layers are added to it where one is given.
    """

    def __init__(
        self,
        images: int,
        image_length: int,
        texts: Ragged,
        mask: Tensor,
        *,
        causal: bool = False,
        cache: Layers | None = None,
    ) -> None:
        self._shape, self._texts, self._causal, self._cache = (images, image_length), texts, causal, cache
        self._mask = torch.cat([mask.new_ones(1).expand(*mask.shape[:3], image_length), mask], dim=3)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attend`."""
        if self._cache is not None:
            self._cache.append((key, value))
        parts = [_split(x, self._shape[0] * self._shape[1]) for x in (query, key, value)]
        images = [x.unflatten(1, self._shape).transpose(0, 1) for x, _ in parts]
        texts = [self._texts.pad(x) for _, x in parts]
        keys, values = (torch.cat(pair, dim=2) for pair in list(zip(images, texts, strict=True))[1:])
        # what is kept for the gradient is kept once: images are seen in the same copies
        length = self._shape[1]
        of_images = attended(images[0], keys[:, :, :length], values[:, :, :length], is_causal=self._causal)
        of_texts = attended(texts[0], keys, values, attn_mask=self._mask)
        return torch.cat([of_images.transpose(1, 2).flatten(0, 1), self._texts.unpad(of_texts)])[None]


class ImagesBehindPrompts:
    """Prompts, and behind all of them the images that are drawn from each, all of one length.

    Args:
        prompts: U prompts.
        images: C, images of each prompt; 0 is prompts alone.
        image_length: columns of an image.
        causal: whether tokens of an image see those before them alone.
        cache: keys and values of the prompts in all layers, padded, are added to it where one is given.
    """

    def __init__(
        self, prompts: Ragged, images: int, image_length: int, *, causal: bool = False, cache: Layers | None = None
    ) -> None:
        self._prompts, self._shape, self._cache = prompts, (len(prompts.lengths), images, image_length), cache
        self._mask = block_mask(prompts.lengths, prompts.longest, image_length, causal=causal, device=prompts.device)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attend`."""
        parts = [_split(x, int(self._prompts.lengths.sum())) for x in (query, key, value)]
        prompts = [self._prompts.pad(x) for x, _ in parts]
        if self._cache is not None:
            self._cache.append((prompts[1], prompts[2]))
        # what is padded at the right is behind all that counts
        queries, keys, values = prompts
        states = [self._prompts.unpad(attended(queries, keys, values, is_causal=True))]
        if self._shape[1]:
            blocks = [x.unflatten(1, self._shape).transpose(0, 1).unbind(2) for _, x in parts]
            of_blocks = [self._block(prompts, block) for block in zip(*blocks, strict=True)]
            states.append(torch.stack(of_blocks, dim=1).flatten(0, 2))
        return torch.cat(states)[None]

    def _block(self, prompts: Sequence[Tensor], block: Sequence[Tensor]) -> Tensor:
        keys, values = (torch.cat(pair, dim=2) for pair in list(zip(prompts, block, strict=True))[1:])
        return attended(block[0], keys, values, attn_mask=self._mask).transpose(1, 2)


class BlocksBehindPrompts:
    """Images that are drawn again and again behind prompts whose keys and values are known.

    Args:
        prompts: keys and values of U prompts, padded at the right.
        rows: (B,) int64, the prompt of each image.
        mask: of `block_mask`, of the same rows.
    """

    def __init__(self, prompts: Layers, rows: Tensor, mask: Tensor | None) -> None:
        self._prompts, self._rows, self._mask = prompts, rows, mask

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attend`."""
        prompt_keys, prompt_values = self._prompts[layer]
        keys = torch.cat([prompt_keys[self._rows], key], dim=2)
        values = torch.cat([prompt_values[self._rows], value], dim=2)
        return attended(query, keys, values, attn_mask=self._mask).transpose(1, 2)


class RowsBehindImages:
    """One token per row behind the row's own tokens and the image (or prompt) it is about, whose keys are known.

    The rows of an image meet its keys and values in one product, so these are there once and are read once.

    Args:
        images: keys and values of I images.
        row_cache: of N rows, (N, H, room, d); written to.
        owners: (N,) int64 on the CPU, the image of each row.
        padding: (N, columns) bool, which of the first columns of `row_cache` are padding.
        length: columns of `row_cache` that are filled.
        beyond: (I, P) bool, which columns of `images` are padding; None is none.
    """

    def __init__(
        self,
        images: Layers,
        row_cache: Layers,
        owners: Tensor,
        padding: Tensor,
        *,
        length: int,
        beyond: Tensor | None = None,
    ) -> None:
        self.length = length
        self._images, self._row_cache, self._owners = images, row_cache, owners
        self._padding, self._beyond = padding, beyond
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
        beyond = None if self._beyond is None else self._beyond[left.to(self._beyond.device)]
        return RowsBehindImages(
            images, _selected(self._row_cache, rows), owners, padding, length=self.length, beyond=beyond
        )

    def make_room(self, columns: int) -> None:
        """See to it that there is room for a token; adds so many columns where there is none."""
        if self.length == self._row_cache[0][0].shape[2]:
            self._row_cache = [(_wider(keys, columns), _wider(values, columns)) for keys, values in self._row_cache]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `Attend`."""
        image_keys, image_values = self._images[layer]
        row_keys, row_values = self._row_cache[layer]
        end = self.length + 1
        row_keys[:, :, self.length : end], row_values[:, :, self.length : end] = key, value
        heads = row_keys.shape[1]  # G, each of which serves H / G heads of queries
        query = query[:, :, 0]
        image = _by_head(torch.matmul(_by_key(self._gathered(query), heads), image_keys.transpose(2, 3)), query)
        if self._beyond is not None:
            image.masked_fill_(self._beyond[:, None, None], -torch.inf)
        row_scores = torch.matmul(
            query.unflatten(1, (heads, -1)), row_keys[:, :, :end].transpose(2, 3)
        )  # (N, G, H / G, end)
        row_scores = row_scores.flatten(1, 2)
        row_scores[:, :, : self._padding.shape[1]].masked_fill_(self._padding[:, None], -torch.inf)
        scores = torch.cat([self._scattered(image), row_scores], dim=2) * query.shape[2] ** -0.5
        weights = scores.softmax(dim=2, dtype=torch.float32).to(query.dtype)
        split = image_keys.shape[2]
        seen = torch.matmul(_by_key(self._gathered(weights[:, :, :split]), heads), image_values)
        written = torch.matmul(weights[:, :, split:].unflatten(1, (heads, -1)), row_values[:, :, :end])
        return (written.flatten(1, 2) + self._scattered(_by_head(seen, query)))[:, None]

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
    images: Tensor,
    texts: Sequence[TextTree],
    *,
    embed: Embed | None = None,
    causal: bool = False,
    cache: Layers | None = None,
) -> Tensor:
    """Hidden states of the texts about some images, one tree after the other, (N, D).

    Args:
        forward: the decoder.
        images: (I, P) token ids of the images, or (I, P, D) input states.
        texts: the texts about each.
        embed: gives the input states of texts, where those of images are given; None leaves it to the decoder.
        causal: whether tokens of an image see those before them alone.
        cache: keys and values of all layers are added to it where one is given, images before texts.
    """
    (count, length), device = images.shape[:2], images.device
    tokens = torch.tensor([token for tree in texts for token in tree.tokens], device=device)
    places = torch.tensor([length + place for tree in texts for place in tree.positions], device=device)
    ragged = Ragged([len(tree.tokens) for tree in texts], device=device)
    mask = trees.tree_mask(texts).to(device)
    attend = TextsBehindImages(count, length, ragged, mask, causal=causal, cache=cache)
    before = torch.arange(length, device=device).repeat(count)
    positions = torch.cat([before, places])[None]
    inputs = torch.cat([images.flatten(0, 1), tokens if embed is None else embed(tokens)])[None]
    return forward(inputs, positions=positions, attend=attend)[0, count * length :]


def images_behind_prompts(
    forward: Forward,
    prompts: Sequence[Sequence[int]],
    blocks: Tensor,
    *,
    embed: Embed | None = None,
    causal: bool = False,
    cache: Layers | None = None,
) -> Tensor:
    """Hidden states of the images behind prompts, (U, C, L, D).

    Args:
        forward: the decoder.
        prompts: U prompts as token ids.
        blocks: (U, C, L) token ids or (U, C, L, D) input states, C images for each; C = 0 is prompts alone.
        embed: gives the input states of prompts, where those of images are given; None leaves it to the decoder.
        causal: whether tokens of an image see those before them alone.
        cache: keys and values of the prompts in all layers, padded, are added to it where one is given.
    """
    device, length = blocks.device, blocks.shape[2]
    ragged = Ragged([len(prompt) for prompt in prompts], device=device)
    tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    before = [torch.arange(len(prompt)) for prompt in prompts]
    places = (ragged.lengths[:, None] + torch.arange(length)).repeat_interleave(blocks.shape[1], dim=0)
    attend = ImagesBehindPrompts(ragged, blocks.shape[1], length, causal=causal, cache=cache)
    positions = torch.cat([*before, places.flatten()]).to(device)[None]
    inputs = torch.cat([tokens if embed is None else embed(tokens), blocks.flatten(0, 2)])[None]
    hidden = forward(inputs, positions=positions, attend=attend)[0]
    return hidden[len(tokens) :].unflatten(0, blocks.shape[:3])


def block_mask(
    lengths: Tensor, prompt_length: int, image_length: int, *, causal: bool = False, device: torch.device
) -> Tensor | None:
    """What an image sees of its prompt, padded at the right, and of itself.

    Args:
        lengths: (B,) int64 on the CPU, of the prompts.
        prompt_length: columns of a prompt, padding included.
        image_length: columns of the image.
        causal: whether tokens of an image see those before them alone.
        device: where the mask goes.

    Returns:
        (B, 1, 1, P + L) bool, (B, 1, L, P + L) where it is causal, or None (all of it) where nothing is hidden.
    """
    if not causal and bool((lengths == prompt_length).all()):
        return None
    place = torch.arange(prompt_length + image_length)
    mask = ((place < lengths[:, None]) | (place >= prompt_length))[:, None, None]
    if causal:
        mask = mask & (place <= place[prompt_length:, None])
    return mask.to(device)


def _by_key(rows: Tensor, heads: int) -> Tensor:
    """Rows of H heads of queries, (I, H, R, x), by the head of keys that serves them, (I, G, H / G * R, x)."""
    return rows.unflatten(1, (heads, -1)).flatten(2, 3)


def _by_head(rows: Tensor, query: Tensor) -> Tensor:
    """The inverse of `_by_key`, for queries (N, H, d)."""
    return rows.unflatten(2, (query.shape[1] // rows.shape[1], -1)).flatten(1, 2)


def ends_before(lengths: Sequence[int]) -> list[int]:
    """Where sequences begin that stand end to end."""
    return [0, *accumulate(lengths)][:-1]


def _selected(layers: Layers, rows: Tensor) -> Layers:
    rows = rows.to(layers[0][0].device)
    return [(keys[rows], values[rows]) for keys, values in layers]


def _wider(buffer: Tensor, columns: int) -> Tensor:
    batch, heads, length, width = buffer.shape
    grown = buffer.new_empty(batch, heads, length + columns, width)
    grown[:, :, :length] = buffer
    return grown
