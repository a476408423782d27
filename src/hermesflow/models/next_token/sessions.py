"""Images written behind prompts whose keys and values are computed once and shared by all candidates of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hermesflow.models import packing
from hermesflow.models.packing import Forward, Layers, RowsBehindImages
from hermesflow.models.text_session import room, unique_rows


class Writer(Protocol):
    """What the session needs of a model: see `base.NextTokenModel`."""

    image_start: int

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def forced(self) -> Mapping[int, int]:
        """Tokens that are no choice, by how many codes they stand behind."""

    @property
    def hidden(self) -> Forward:
        """The decoder."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Input states of token ids."""

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input states of codes."""

    def code_states(self, hidden: Tensor) -> Tensor:
        """What logits over the codes are an affine function of."""

    def code_logits(self, states: Tensor) -> Tensor:
        """That function."""


class CachedImageSession:
    """Writes B images; implements `generation.ImageSession`.

    Conditional and unconditional rows are one batch, whose halves stand behind the prompts of their own side.

    Args:
        model: who writes.
        sides: B prompts as token ids, and for guidance as many unconditional ones.
        guidance: w.
        length: columns of an image, without its last code.
    """

    logits: Tensor

    def __init__(
        self, model: Writer, sides: Sequence[Sequence[Sequence[int]]], *, guidance: float, length: int
    ) -> None:
        self._model, self._guidance, self._written = model, guidance, 0
        with torch.inference_mode():
            self._sides = [self._behind(side, length) for side in sides]
            lengths = torch.tensor([len(prompt) for side in sides for prompt in side])
            self._positions = lengths[:, None].to(model.device)
            self._step(self._token(model.image_start, len(sides[0])))

    def _token(self, token: int, rows: int) -> Tensor:
        """Input states of one token in every row."""
        return self._model.embed(torch.tensor([token], device=self._model.device)).expand(rows, -1)

    def _behind(self, prompts: Sequence[Sequence[int]], columns: int) -> RowsBehindImages:
        """The rows of one side, each behind its prompt; every different prompt is run once."""
        model = self._model
        places, owners = unique_rows([tuple(prompt) for prompt in prompts])
        different, size = [prompts[i] for i in places], len(prompts)
        cache: Layers = []
        nothing = self._token(model.image_start, len(different))[:, None, None, :][:, :0]
        packing.images_behind_prompts(model.hidden, different, nothing, embed=model.embed, causal=True, cache=cache)
        row_cache = [room(pair, size, pair[0].shape[1], columns, pair[0].shape[3]) for pair in cache]
        lengths = torch.tensor([len(prompt) for prompt in different])
        beyond = (torch.arange(int(lengths.max())) >= lengths[:, None]).to(model.device)
        return RowsBehindImages(
            cache,
            row_cache,
            torch.tensor(owners),
            torch.zeros(size, 0, dtype=torch.bool, device=model.device),
            length=0,
            beyond=beyond if beyond.any() else None,
        )

    @torch.inference_mode()
    def step(self, codes: Tensor) -> Tensor:
        """Append one code per row, (B,) int64, and what must follow it; returns the next guided logits (B, C)."""
        self._written += 1
        states = self._model.embed_codes(codes.to(self._model.device))
        if (token := self._model.forced.get(self._written)) is not None:
            self._run(states)
            states = self._token(token, len(codes))
        return self._step(states)

    def _run(self, states: Tensor) -> Tensor:
        """Last hidden states of all sides behind one more token, (sides * B, D)."""
        rows = states.repeat(len(self._sides), 1)[:, None]
        hidden = self._model.hidden(rows, positions=self._positions, attend=self._attend)[:, 0]
        self._positions = self._positions + 1
        for side in self._sides:
            side.length += 1
        return hidden

    def _step(self, states: Tensor) -> Tensor:
        hidden = self._model.code_states(self._run(states))
        if len(self._sides) == 2:
            # the weights add up to one, so that guiding what the logits are affine in is guiding the logits
            conditional, other = hidden.to(torch.promote_types(hidden.dtype, torch.float32)).chunk(2)
            hidden = torch.lerp(other, conditional, 1 + self._guidance).to(hidden.dtype)
        self.logits = self._model.code_logits(hidden)
        return self.logits

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = zip(self._sides, *(x.chunk(len(self._sides)) for x in (query, key, value)), strict=True)
        return torch.cat([side(layer, *part) for side, *part in parts])
