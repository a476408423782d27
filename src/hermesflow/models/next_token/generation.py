"""Images written code by code: each is drawn from what the guided logits say after all codes before it.

Source: deepseek-ai/Janus (generation_inference.py) and baaivision/Emu3 (image_generation.py), whose weights 5 and 3 are
guidances of 4 and 2 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hermesflow.config.sections import ImageSampling
from hermesflow.core.finite import check_finite
from hermesflow.models.draws import inverse_cdf, sessions, uniforms_per_row


class ImageSession(Protocol):
    """Images being written, one row each, from prompts whose keys and values are cached."""

    logits: Tensor
    """(B, codebook_size) float, guided, for the next code of every row."""

    def step(self, codes: Tensor) -> Tensor:
        """Append one code per row, (B,) int64; returns the new `logits`."""


class NextCodeModel(Protocol):
    """What the loop needs of a model."""

    num_image_tokens: int

    @property
    def image_rows(self) -> int:
        """Images that one session has room for."""

    def image_session(self, prompts: Sequence[str], *, guidance: float) -> ImageSession:
        """Start B images; guidance w = 0 leaves the unconditional rows out."""


@torch.inference_mode()
def generate_images(
    model: NextCodeModel, prompts: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
) -> Tensor:
    """One image per prompt.

    Args:
        model: the model that generates.
        prompts: B prompts; repeat one for more candidates.
        settings: guidance, temperature, top_k and top_p.
        generators: B CPU generators, one per row; advanced.

    Returns:
        (B, T) int64 codes on the CPU.

    Raises:
        ValueError: not one generator per prompt.
        NotFiniteError: a logit is not.
    """
    uniforms = uniforms_per_row(generators, (model.num_image_tokens,), len(prompts))
    images = torch.zeros(uniforms.shape, dtype=torch.int64)
    for rows in sessions(len(prompts), model.image_rows) if prompts else ():
        session = model.image_session(prompts[rows], guidance=settings.guidance)
        codes: list[Tensor] = []
        for numbers in uniforms[rows].to(session.logits.device).unbind(dim=1):
            logits = session.step(codes[-1]) if codes else session.logits
            codes.append(draw(logits, numbers, settings))
        images[rows] = torch.stack(codes, dim=1).cpu()
    return images


def draw(logits: Tensor, uniforms: Tensor, settings: ImageSampling) -> Tensor:
    """One code per row, (B,) int64, of logits (B, C) and uniform numbers (B,); temperature 0 takes the likeliest."""
    if not settings.temperature:
        check_finite(logits, "a logit of row {}".format)
        return logits.argmax(dim=1)
    logits = logits.float() / settings.temperature
    if settings.top_k is not None and settings.top_k < logits.shape[1]:
        least = logits.topk(settings.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    weights = logits.softmax(dim=1)
    if settings.top_p is not None:
        likeliest = weights.sort(dim=1, descending=True)
        before = likeliest.values.cumsum(dim=1) - likeliest.values
        least = likeliest.values.masked_fill(before >= settings.top_p, math.inf).amin(dim=1, keepdim=True)
        weights = weights.masked_fill(weights < least, 0.0)
    return inverse_cdf(weights, uniforms)
