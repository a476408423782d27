"""Cached decoding of a Show-o model: image and text prefixes are computed once and shared by the rows that need them.

Source: the attention of Show-o lets no prefix see what comes after it (a caption never sees the image it draws, an
image never sees the text about it), so its keys and values stay valid for the whole decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hermesflow.models import packing
from hermesflow.models.packing import BlocksBehindPrompts, Forward, Layers
from hermesflow.models.showo import prompting
from hermesflow.models.showo.prompting import TokenIds
from hermesflow.models.text_session import CachedTextSession, unique_rows
from hermesflow.models.trees import TextTree


class _Prompts:
    """Keys and values of the different prompts of one side (conditional or unconditional)."""

    def __init__(
        self, forward: Forward, prompts: Sequence[Sequence[int]], *, image_length: int, device: torch.device
    ) -> None:
        self._forward, self._image = forward, image_length
        self._lengths, self._cache = torch.tensor([len(prompt) for prompt in prompts]), list[tuple[Tensor, Tensor]]()
        nothing = torch.empty(len(prompts), 0, image_length, dtype=torch.int64, device=device)
        packing.images_behind_prompts(forward, prompts, nothing, cache=self._cache)

    def blocks(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Hidden states of image blocks (B, L), block i behind prompt prompts[i] (on the CPU), (B, L, D)."""
        lengths = self._lengths[prompts]
        longest = int(lengths.max())  # columns that none of them needs are left out
        cache = [(keys[:, :, :longest], values[:, :, :longest]) for keys, values in self._cache]
        mask = packing.block_mask(lengths, longest, self._image, device=tokens.device)
        positions = (lengths[:, None] + torch.arange(self._image)).to(tokens.device)
        attend = BlocksBehindPrompts(cache, prompts.to(tokens.device), mask)
        return self._forward(tokens, positions=positions, attend=attend)


class ShowOImageSession:
    """Draws B images; implements `generation.ImageSession`.

    Args:
        forward: the decoder.
        head: logits over the codes.
        ids: the vocabulary.
        texts: B prompts as token ids.
        guidance: w; 0 leaves the unconditional side out.
        num_image_tokens: T.
        max_text_tokens: longest prompt.
        together: image blocks that run together.
        device: where the model is.
    """

    def __init__(
        self,
        forward: Forward,
        head: Callable[[Tensor], Tensor],
        ids: TokenIds,
        *,
        texts: Sequence[Sequence[int]],
        guidance: float,
        num_image_tokens: int,
        max_text_tokens: int,
        together: int,
        device: torch.device,
    ) -> None:
        self._head, self._ids, self._guidance, self._device = head, ids, guidance, device
        self._together, self._length = together, num_image_tokens + 2
        places, owners = unique_rows([tuple(text) for text in texts])
        self._owners = torch.tensor(owners, dtype=torch.int64)
        self._order = torch.tensor([len(texts[i]) for i in places])[self._owners].argsort(stable=True)

        def prompts(texts: Sequence[Sequence[int]]) -> _Prompts:
            rows = prompting.generation_prompts(ids, texts, max_text_tokens=max_text_tokens)
            return _Prompts(forward, rows, image_length=self._length, device=device)

        with torch.inference_mode():
            self._conditional = prompts([texts[i] for i in places])
            self._unconditional = prompts([[]]) if guidance > 0 else None

    @torch.inference_mode()
    def logits(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Guided logits over the codes at the M masked places, (M, codebook_size); see `generation.ImageSession`."""
        codes, masked = codes.to(self._device), masked.to(self._device)
        if masked.all():  # the same block behind every prompt
            first = prompting.image_block(self._ids, codes[:1], masked[:1])
            prompts = torch.arange(int(self._owners.max()) + 1)
            guided = self._guided(first.expand(len(prompts), -1), prompts)
            return self._head(guided)[self._owners.to(self._device)].flatten(0, 1)
        tokens = prompting.image_block(self._ids, codes, masked)
        states: list[Tensor] = [tokens] * len(tokens)
        for rows in self._order.split(self._together):
            group = rows.to(self._device)
            counts = masked[group].sum(dim=1).tolist()
            guided = self._guided(tokens[group], self._owners[rows])[masked[group]]
            for row, part in zip(rows.tolist(), guided.split(counts), strict=True):
                states[row] = part
        return self._head(torch.cat(states))

    def _guided(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        parts = []
        for block, rows in zip(tokens.split(self._together), prompts.split(self._together), strict=True):
            hidden = self._conditional.blocks(block, rows)
            if self._unconditional is not None:
                # the head is affine and the weights add up to one: guiding the states before it is guiding the logits
                other = self._unconditional.blocks(block, torch.zeros_like(rows))
                wide = torch.promote_types(hidden.dtype, torch.float32)
                hidden = torch.lerp(other.to(wide), hidden.to(wide), 1 + self._guidance).to(hidden.dtype)
            parts.append(hidden[:, 1:-1])
        return torch.cat(parts)


class ShowOTextSession(CachedTextSession):
    """Writes N texts.

    Args:
        forward: the decoder.
        head: logits over the vocabulary.
        ids: the vocabulary.
        codes: (I, T) int64 images.
        owners: the image of each text.
        prompts: the beginning of each text as token ids.
        max_text_tokens: longest prompt, that sequences are grouped by.
        together: tokens that run together.
    """

    def __init__(
        self,
        forward: Forward,
        head: Callable[[Tensor], Tensor],
        ids: TokenIds,
        *,
        codes: Tensor,
        owners: Sequence[int],
        prompts: Sequence[Sequence[int]],
        max_text_tokens: int,
        together: int,
    ) -> None:
        different, places = unique_rows(owners)
        images = codes[torch.tensor([owners[i] for i in different], device=codes.device)]

        def prefill(group: list[int], trees: list[TextTree], *, cache: Layers) -> Tensor:
            blocks = prompting.understanding_images(ids, images[torch.tensor(group, device=codes.device)])
            return packing.texts_behind_images(forward, blocks, trees, cache=cache)

        super().__init__(
            forward,
            head,
            prefill,
            prompting.understanding_prompts(ids, prompts, places, images=len(images)),
            image_length=codes.shape[1] + 3,
            max_text_tokens=max_text_tokens,
            together=together,
            device=codes.device,
        )
