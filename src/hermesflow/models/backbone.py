"""The protocol every backbone meets: text is `str`, an image is its codes, (T,) int64 in [0, codebook_size)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class TextSession(Protocol):
    """Texts being written token by token, one row each, about images whose keys and values are cached."""

    logits: Tensor
    """(N, V) float, for the next token of every row."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row, (N,) int64; returns the new `logits`."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, (K,) int64."""


class ImageSession(Protocol):
    """Images being drawn, one row each, from prompts whose keys and values are cached."""

    def logits(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Guided logits over the codes at the M places that are masked, row by row.

        Args:
            codes: (B, T) int64; not read where masked.
            masked: (B, T) bool.

        Returns:
            (M, codebook_size) float: (1 + w) * conditional - w * unconditional.
        """


class UnifiedModel(Protocol):
    """A model that both draws (t2i) and describes (mmu); also a torch module."""

    num_image_tokens: int
    codebook_size: int
    caption_prompt: str
    question_template: str
    end_token: int

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def text_rows(self) -> int:
        """Texts that one session has room for."""

    @property
    def image_rows(self) -> int:
        """Images that one session has room for."""

    def image_logps(
        self, captions: Sequence[str], codes: Tensor, masked: Tensor, *, owners: Tensor | None = None
    ) -> Tensor:
        """Log-probability of the masked codes given the caption and the codes that are not masked, (B,) nats.

        Row i is drawn from captions[owners[i]]; each caption has as many rows.
        """

    def text_logps(
        self, codes: Tensor, prompts: Sequence[str], completions: Sequence[str], *, owners: Tensor | None = None
    ) -> Tensor:
        """Log-probability of each completion and its end, given image codes[owners[i]] and prompt, (B,) nats."""

    def text_session(self, codes: Tensor, owners: Tensor, prompts: Sequence[str]) -> TextSession:
        """Start N texts; row i is about image codes[owners[i]] and starts after prompts[i]."""

    def image_session(self, captions: Sequence[str], *, guidance: float) -> ImageSession:
        """Start B images; guidance w = 0 leaves the unconditional pass out."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of sampled token ids; ids that are not text are left out."""
