"""Images written behind prompts whose keys and values are computed once and shared by all candidates of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hermesflow.models import packing
from hermesflow.models.janus.prompting import TokenIds
from hermesflow.models.packing import Embed, Forward, Layers, RowsBehindImages
from hermesflow.models.text_session import room, unique_rows


class JanusImageSession:
    """Writes B images; implements `generation.ImageSession`.

    Conditional and unconditional rows are one batch, whose halves stand behind the prompts of their own side. The
    unconditional prompt of a row follows from the length of its text.

    Args:
        forward: the decoder.
        embed: input states of token ids.
        embed_codes: input states of codes.
        head: what the logits are an affine function of, (B, D') of last hidden states (B, D).
        logits: that function, (B, D') to (B, codebook_size).
        ids: the vocabulary.
        texts: B prompts as token ids.
        guidance: w; 0 leaves the unconditional rows out.
        num_image_tokens: T.
        device: where the model is.
    """

    logits: Tensor

    def __init__(
        self,
        forward: Forward,
        embed: Embed,
        embed_codes: Embed,
        head: Callable[[Tensor], Tensor],
        logits: Callable[[Tensor], Tensor],
        ids: TokenIds,
        *,
        texts: Sequence[Sequence[int]],
        guidance: float,
        num_image_tokens: int,
        device: torch.device,
    ) -> None:
        self._forward, self._embed_codes, self._head, self._logits = forward, embed_codes, head, logits
        self._guidance, self._device = guidance, device
        sides = [[ids.drawing_prompt(text) for text in texts]]
        if guidance:
            sides.append([ids.unconditional_prompt(len(text)) for text in texts])
        with torch.inference_mode():
            start = embed(torch.tensor([ids.boi], device=device))
            self._sides = [self._behind(side, embed, num_image_tokens, start) for side in sides]
            lengths = torch.tensor([len(prompt) for side in sides for prompt in side])
            self._positions = lengths[:, None].to(device)
            self._step(start.expand(len(texts), -1))

    def _behind(
        self, prompts: Sequence[Sequence[int]], embed: Embed, num_image_tokens: int, like: Tensor
    ) -> RowsBehindImages:
        """The rows of one side, each behind its prompt; every different prompt is run once."""
        places, owners = unique_rows([tuple(prompt) for prompt in prompts])
        different, size = [prompts[i] for i in places], len(prompts)
        kept: Layers = []
        nothing = like.new_empty(len(different), 0, 1, like.shape[1])
        packing.images_behind_prompts(self._forward, different, nothing, embed=embed, causal=True, kept=kept)
        own = [room(pair, size, pair[0].shape[1], num_image_tokens, pair[0].shape[3]) for pair in kept]
        lengths = torch.tensor([len(prompt) for prompt in different])
        beyond = (torch.arange(int(lengths.max())) >= lengths[:, None]).to(self._device)
        return RowsBehindImages(
            kept,
            own,
            torch.tensor(owners),
            torch.zeros(size, 0, dtype=torch.bool, device=self._device),
            length=0,
            beyond=beyond if beyond.any() else None,
        )

    @torch.inference_mode()
    def step(self, codes: Tensor) -> Tensor:
        """Append one code per row, (B,) int64; returns the next guided logits (B, codebook_size)."""
        return self._step(self._embed_codes(codes.to(self._device)))

    def _step(self, states: Tensor) -> Tensor:
        rows = states.repeat(len(self._sides), 1)[:, None]
        hidden = self._head(self._forward(rows, positions=self._positions, attend=self._attend)[:, 0])
        self._positions = self._positions + 1
        for side in self._sides:
            side.length += 1
        if self._guidance:
            # the weights add up to one, so that guiding what the logits are affine in is guiding the logits
            conditional, other = hidden.to(torch.promote_types(hidden.dtype, torch.float32)).chunk(2)
            hidden = torch.lerp(other, conditional, 1 + self._guidance).to(hidden.dtype)
        self.logits = self._logits(hidden)
        return self.logits

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = zip(self._sides, *(x.chunk(len(self._sides)) for x in (query, key, value)), strict=True)
        return torch.cat([side(layer, *part) for side, *part in parts])
