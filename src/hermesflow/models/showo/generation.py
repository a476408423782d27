"""Generation of images by MaskGIT: all codes start masked, and each step keeps those the model is surest of.

Source: MaskGIT (Chang et al. 2022) section 3.2; Show-o's released sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from hermesflow.config.sections import ImageSampling
from hermesflow.models.draws import inverse_cdf, sessions, uniforms_per_row


class ImageSession(Protocol):
    """Images being generated, one row each, from prompts whose keys and values are cached."""

    def logits(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Guided logits over the codes at the M places that are masked, row by row.

        Args:
            codes: (B, T) int64; not read where masked.
            masked: (B, T) bool.

        Returns:
            (M, codebook_size) float: (1 + w) * conditional - w * unconditional.
        """


class MaskedModel(Protocol):
    """What the loop needs of a model."""

    num_image_tokens: int

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def image_rows(self) -> int:
        """Images that one session has room for."""

    def image_session(self, captions: Sequence[str], *, guidance: float) -> ImageSession:
        """Start B images; guidance w = 0 leaves the unconditional pass out."""


@torch.inference_mode()
def generate_images(
    model: MaskedModel, captions: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
) -> Tensor:
    """One image per caption by MaskGIT decoding.

    Each step draws every masked code, then masks again those of least confidence (log-probability plus scaled Gumbel
    noise), as many as the cosine schedule says.

    Args:
        model: the model that generates.
        captions: B captions; repeat one for more candidates.
        settings: steps, guidance and noise; `n` is not read.
        generators: B CPU generators, one per row; advanced.

    Returns:
        (B, T) int64 codes on the CPU.

    Raises:
        ValueError: not one generator per caption.
        NotFiniteError: a logit is not.
    """
    uniforms = uniforms_per_row(generators, (settings.steps, 2, model.num_image_tokens), len(captions))
    parts = [
        _decode(model, captions[rows], settings, uniforms[rows].to(model.device))
        for rows in sessions(len(captions), model.image_rows)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, model.num_image_tokens, dtype=torch.int64)


def _decode(model: MaskedModel, captions: Sequence[str], settings: ImageSampling, uniforms: Tensor) -> Tensor:
    """Codes (B, T) of uniform numbers (B, steps, 2, T): for the codes, and for the Gumbel noise."""
    size, tokens, device = len(captions), model.num_image_tokens, uniforms.device
    session = model.image_session(captions, guidance=settings.guidance)
    codes = torch.zeros(size, tokens, dtype=torch.int64, device=device)
    masked = torch.ones(size, tokens, dtype=torch.bool, device=device)
    temperatures = _temperatures(settings.temperature, settings.steps, settings.temperature_schedule)
    for step, temperature in enumerate(temperatures):
        probabilities = session.logits(codes, masked).float().softmax(dim=-1).to(device)
        sampled = inverse_cdf(
            probabilities,
            uniforms[:, step, 0][masked],
            lambda row, masked=masked: f"the image of prompt `{captions[masked.nonzero()[row, 0]]}`",  # type: ignore[misc]
        )
        codes[masked] = sampled
        chosen = probabilities.gather(-1, sampled[:, None])[:, 0].clamp_min(1e-20).log()
        confidence = temperature * _gumbel(uniforms[:, step, 1])
        confidence[masked] += chosen
        masked = _least_confident(confidence, masked, _count_masked(step, settings.steps, tokens, masked))
    return codes.cpu()


def _gumbel(uniforms: Tensor) -> Tensor:
    return -(-uniforms.clamp_min(1e-20).log()).clamp_min(1e-20).log()


def _temperatures(start: float, steps: int, schedule: Literal["linear", "official"]) -> list[float]:
    left = [1 - (step + 1) / steps for step in range(steps)]
    if schedule == "linear":
        return [start * share for share in left]
    return [start * math.prod(left[: step + 1]) for step in range(steps)]


def _count_masked(step: int, steps: int, tokens: int, masked: Tensor) -> Tensor:
    """Codes to mask again, (B,) int64: at least one, and at least one fewer than now."""
    share = math.cos((step + 1) / steps * math.pi / 2)
    return (masked.sum(dim=1) - 1).clamp_max(math.floor(tokens * share)).clamp_min(1)


def _least_confident(confidence: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """Mask of the `count` (B,) least confident positions among the masked ones, (B, T) bool."""
    confidence = confidence.masked_fill(~masked, math.inf)
    cut = confidence.sort(dim=1).values.gather(1, count[:, None].clamp_max(confidence.shape[1] - 1))
    return confidence < cut
