"""Cached decoding of a Show-o model: image and text prefixes are computed once and shared by the rows that need them.

Source: the attention of Show-o lets no prefix see what comes after it (a caption never sees the image it draws, an
image never sees the text about it), so its keys and values stay valid for the whole decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hermesflow.models import attention, prompting
from hermesflow.models.prompting import TokenIds

Forward = Callable[..., Tensor]
"""forward(tokens (B, L), mask, positions=(B or 1, L), cache=KeyValues) -> hidden states (B, L, D)."""
GROWTH = 16  # columns a cache grows by when it is full


class KeyValues:
    """Keys and values of every layer in buffers that are written in place.

    A forward pass writes its block behind the first `length` columns and sees them and itself; the block becomes part
    of the prefix only when `length` is raised. So an image block is computed again and again behind one prompt
    without copying the prompt.
    """

    def __init__(self, layers: int, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Write a block (B, H, L, d); returns prefix and block. transformers calls this by name."""
        end = self.length + keys.shape[2]
        return self._write(self._keys, keys, layer, end), self._write(self._values, values, layer, end)

    def select(self, rows: Tensor, *, capacity: int) -> KeyValues:
        """The prefix of the given rows, (K,) int64, with room for `capacity` columns."""
        chosen = KeyValues(len(self._keys), capacity)
        chosen.length = self.length
        for source, target in ((self._keys, chosen._keys), (self._values, chosen._values)):
            for layer, buffer in enumerate(source):
                assert buffer is not None
                grown = buffer.new_empty(len(rows), buffer.shape[1], capacity, buffer.shape[3])
                grown[:, :, : self.length] = buffer[rows, :, : self.length]
                target[layer] = grown
        return chosen

    def _write(self, buffers: list[Tensor | None], block: Tensor, layer: int, end: int) -> Tensor:
        buffer = buffers[layer]
        if buffer is None or buffer.shape[2] < end:
            batch, heads, _, width = block.shape
            grown = block.new_empty(batch, heads, max(self._capacity, end + GROWTH * (buffer is not None)), width)
            if buffer is not None:
                grown[:, :, : self.length] = buffer[:, :, : self.length]
            buffers[layer] = buffer = grown
        buffer[:, :, self.length : end] = block
        return buffer[:, :, :end]


def unique_rows(keys: Sequence[object]) -> tuple[list[int], list[int]]:
    """Index of the first of each different key, and for every key the index among those."""
    first: dict[object, int] = {}
    places: list[int] = []
    for i, key in enumerate(keys):
        if key not in first:
            first[key] = len(places)
            places.append(i)
    return places, [first[key] for key in keys]


class _Prompts:
    """Cached prompts of one side (conditional or unconditional): different ones computed once, then one per row."""

    def __init__(
        self, forward: Forward, layers: int, tokens: Tensor, padding: Tensor, rows: Tensor, *, block_length: int
    ) -> None:
        length = tokens.shape[1]
        place = torch.arange(length + block_length, device=tokens.device)[None]
        mask = attention.generation_mask(padding, length, block_length)
        own = KeyValues(layers, length + block_length)
        forward(tokens, mask[:, :, :length, :length], positions=place[:, :length], cache=own)
        own.length = length
        self._forward, self._rows, self._positions = forward, rows, place[:, length:]
        self._different = own, mask[:, :, length:]
        self._every = own.select(rows, capacity=length + block_length), mask[rows, :, length:]

    def block(self, tokens: Tensor) -> Tensor:
        """Hidden states of an image block behind every row's prompt, (B, L, D)."""
        cache, mask = self._every
        return self._forward(tokens, mask, positions=self._positions, cache=cache)

    def same_block(self, tokens: Tensor) -> Tensor:
        """The same where all rows hold the same block, (1, L): computed once per different prompt."""
        cache, mask = self._different
        return self._forward(tokens.expand(len(mask), -1), mask, positions=self._positions, cache=cache)[self._rows]


class ShowOImageSession:
    """Draws B images; implements `unified.ImageSession`."""

    def __init__(
        self,
        forward: Forward,
        head: Callable[[Tensor], Tensor],
        ids: TokenIds,
        *,
        layers: int,
        texts: Sequence[Sequence[int]],
        guidance: float,
        num_image_tokens: int,
        max_text_tokens: int,
        device: torch.device,
    ) -> None:
        self._head, self._ids, self._guidance, self._device = head, ids, guidance, device
        places, owners = unique_rows([tuple(text) for text in texts])

        def prompts(texts: Sequence[Sequence[int]], rows: list[int]) -> _Prompts:
            tokens, padding = prompting.generation_prompts(ids, texts, max_text_tokens=max_text_tokens)
            return _Prompts(
                forward,
                layers,
                tokens.to(device),
                padding.to(device),
                torch.tensor(rows, dtype=torch.int64, device=device),
                block_length=num_image_tokens + 2,
            )

        with torch.inference_mode():
            self._conditional = prompts([texts[i] for i in places], owners)
            self._unconditional = prompts([[]], [0] * len(texts)) if guidance > 0 else None

    @torch.inference_mode()
    def logits(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Guided logits over the codes, (B, T, codebook_size); see `unified.ImageSession`."""
        tokens = prompting.image_block(self._ids, codes.to(self._device), masked.to(self._device))
        hidden = self._hidden(self._conditional, tokens, bool(masked.all()))
        if self._unconditional is not None:
            # the head is affine and the weights add up to one: guiding the states before it is guiding the logits
            other = self._hidden(self._unconditional, tokens, bool(masked.all()))
            hidden = torch.lerp(other.float(), hidden.float(), 1 + self._guidance).to(hidden.dtype)
        return self._head(hidden)

    def _hidden(self, prompts: _Prompts, tokens: Tensor, same: bool) -> Tensor:
        hidden = prompts.same_block(tokens[:1]) if same else prompts.block(tokens)
        return hidden[:, 1:-1]


class ShowOTextSession:
    """Writes N texts; implements `unified.TextSession`."""

    logits: Tensor

    def __init__(
        self,
        forward: Forward,
        head: Callable[[Tensor], Tensor],
        ids: TokenIds,
        *,
        layers: int,
        codes: Tensor,
        owners: Sequence[int],
        prompts: Sequence[Sequence[int]],
    ) -> None:
        self._forward, self._head = forward, head
        device = codes.device
        places, rows = unique_rows([(owner, tuple(prompt)) for owner, prompt in zip(owners, prompts, strict=True)])
        text, padding = prompting.understanding_prompts(ids, [prompts[i] for i in places])
        text, padding = text.to(device), padding.to(device)
        images, length = codes.shape[1] + 3, text.shape[1]
        with torch.inference_mode():
            cache = self._prefill(prompting.understanding_images(ids, codes), layers)
            cache = cache.select(torch.tensor([owners[i] for i in places], device=device), capacity=images + length)
            place = images + (torch.arange(length, device=device) - padding[:, None]).clamp(min=0)
            mask = attention.continuation_mask(padding, images, length)
            hidden = forward(text, mask, positions=place, cache=cache)[:, -1]
            cache.length += length
            index = torch.tensor(rows, dtype=torch.int64, device=device)
            self.logits = head(hidden)[index]
            self._cache = cache.select(index, capacity=cache.length + GROWTH)
            self._positions = place[index, -1:]
            self._seen = mask[index, :, -1:]

    def _prefill(self, tokens: Tensor, layers: int) -> KeyValues:
        cache = KeyValues(layers, tokens.shape[1])
        mask = attention.understanding_mask(tokens.shape[1], 0, device=tokens.device)
        self._forward(tokens, mask, positions=torch.arange(tokens.shape[1], device=tokens.device)[None], cache=cache)
        cache.length = tokens.shape[1]
        return cache

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, (N,) int64; returns the next logits (N, V)."""
        self._positions = self._positions + 1
        self._seen = torch.cat([self._seen, self._seen.new_ones(len(tokens), 1, 1, 1)], dim=3)
        tokens = tokens.to(self._positions.device)[:, None]
        hidden = self._forward(tokens, self._seen, positions=self._positions, cache=self._cache)
        self._cache.length += 1
        self.logits = self._head(hidden[:, -1])
        return self.logits

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (K,) int64."""
        rows = rows.to(self._positions.device)
        self._cache = self._cache.select(rows, capacity=self._cache.length + GROWTH)
        self._positions, self._seen, self.logits = self._positions[rows], self._seen[rows], self.logits[rows]
