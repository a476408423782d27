"""Candidates from a unified model: MaskGIT image decoding and cached text decoding.

Every row has its own generator and reads a fixed number of random values from it, so what is drawn for a row does not
depend on which other rows are decoded with it.
Source: HermesFlow section 3.2; MaskGIT (Chang et al. 2022) section 3.2; Show-o's released sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hermesflow.config.sections import Decoding, ImageSampling
from hermesflow.models.backbone import UnifiedModel

_BLOCK = 64  # codes whose weights are added up before one is drawn
KEEP_BELOW = 0.75  # rows that ended are dropped when fewer than this share are left


@torch.inference_mode()
def sample_images(
    model: UnifiedModel,
    captions: Sequence[str],
    *,
    settings: ImageSampling,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Draw one image per caption by MaskGIT decoding.

    All codes start masked. Each step draws every masked code, then masks again those of least confidence
    (log-probability plus scaled Gumbel noise), as many as the cosine schedule says.

    Args:
        model: the model that draws.
        captions: B captions; repeat one for more candidates.
        settings: steps, guidance and noise; `n` is not read.
        generators: B CPU generators, one per row; advanced.

    Returns:
        (B, T) int64 codes on the CPU.

    Raises:
        ValueError: not one generator per caption.
    """
    uniforms = _per_row(generators, (settings.steps, 2, model.num_image_tokens), len(captions))
    parts = [
        _draw(model, captions[rows], settings, _RowDraws(uniforms[rows].to(model.device)))
        for rows in sessions(len(captions), model.image_rows)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, model.num_image_tokens, dtype=torch.int64)


def _draw(model: UnifiedModel, captions: Sequence[str], settings: ImageSampling, draws: _RowDraws) -> Tensor:
    size, tokens, device = len(captions), model.num_image_tokens, draws.device
    session = model.image_session(captions, guidance=settings.guidance)
    codes = torch.zeros(size, tokens, dtype=torch.int64, device=device)
    masked = torch.ones(size, tokens, dtype=torch.bool, device=device)
    for step, temperature in enumerate(
        _temperatures(settings.temperature, settings.steps, settings.temperature_schedule)
    ):
        probabilities = session.logits(codes, masked).float().softmax(dim=-1).to(device)
        drawn = draws.categorical(probabilities, step, masked)
        codes[masked] = drawn
        chosen = probabilities.gather(-1, drawn[:, None])[:, 0].clamp_min(1e-20).log()
        confidence = temperature * draws.gumbel(step)
        confidence[masked] += chosen
        masked = _least_confident(confidence, masked, _count_masked(step, settings.steps, tokens, masked))
    return codes.cpu()


@torch.inference_mode()
def sample_texts(
    model: UnifiedModel,
    codes: Tensor,
    owners: Tensor,
    prompts: Sequence[str],
    *,
    decodings: Sequence[Decoding],
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
) -> list[str]:
    """Write one text per row, until its end token or `max_new_tokens`.

    Args:
        model: the model that writes.
        codes: (I, T) int64 image codes; rows about one image share its cache.
        owners: (N,) int64, the image of each row.
        prompts: N prompts, templates applied; rows with the same image and prompt share its cache.
        decodings: N settings, one per row; top_k 1 is greedy.
        max_new_tokens: at most so many tokens per text.
        generators: N CPU generators, one per row; advanced. Greedy rows read theirs too.

    Returns:
        N texts.

    Raises:
        ValueError: not one prompt, decoding and generator per row.
    """
    size = len(owners)
    if not len(prompts) == len(decodings) == size:
        raise ValueError(f"{size} rows need as many prompts and decodings; found {len(prompts)} and {len(decodings)}")
    uniforms = _per_row(generators, (max_new_tokens,), size)
    written: list[list[int]] = []
    for rows in sessions(size, model.text_rows):
        images, own = of_session(codes, owners, rows)
        written += _write(model, images, own, prompts[rows], decodings[rows], uniforms[rows])
    return [model.detokenize(_until(row, model.end_token)) for row in written]


def _write(
    model: UnifiedModel,
    codes: Tensor,
    owners: Tensor,
    prompts: Sequence[str],
    decodings: Sequence[Decoding],
    uniforms: Tensor,
) -> list[list[int]]:
    size, max_new_tokens = uniforms.shape
    top_k = torch.tensor([d.top_k for d in decodings])
    heat = torch.tensor([d.temperature for d in decodings])
    written = torch.full((size, max_new_tokens), model.end_token)
    session = model.text_session(codes, owners, prompts)
    rows, alive = torch.arange(size), torch.ones(size, dtype=torch.bool)
    logits = session.logits
    for step in range(max_new_tokens):
        tokens = _draw_top_k(logits, top_k[rows], heat[rows], uniforms[rows, step])
        written[rows[alive], step] = tokens[alive]
        alive &= tokens != model.end_token
        if step + 1 == max_new_tokens or not alive.any():
            break
        if alive.sum() < KEEP_BELOW * len(alive):
            left = alive.nonzero()[:, 0]
            session.keep(left)
            rows, tokens, alive = rows[left], tokens[left], alive[left]
        logits = session.step(tokens)
    return written.tolist()


def of_session(codes: Tensor, owners: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Images that some rows are about, and the rows' places among them; all of them where the rows are all."""
    if rows == slice(0, len(owners)):
        return codes, owners
    images, own = owners[rows].unique(return_inverse=True)
    return codes[images.to(codes.device)], own


def sessions(size: int, most: int) -> list[slice]:
    """Rows cut into sessions of at most `most`, as equal as may be."""
    count = max(math.ceil(size / most), 1)
    each = math.ceil(size / count)
    return [slice(start, min(start + each, size)) for start in range(0, size, max(each, 1))]


@dataclass(frozen=True)
class _RowDraws:
    uniforms: Tensor
    """(B, steps, 2, T) in [0, 1): for the codes, and for the noise."""

    @property
    def device(self) -> torch.device:
        return self.uniforms.device

    def categorical(self, probabilities: Tensor, step: int, masked: Tensor) -> Tensor:
        return inverse_cdf(probabilities, self.uniforms[:, step, 0][masked])

    def gumbel(self, step: int) -> Tensor:
        return _gumbel(self.uniforms[:, step, 1])


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Categorical draws from one uniform each.

    Args:
        weights: (..., C) float, not negative, not all zero; need not add up to one.
        uniforms: (...) float in [0, 1).

    Returns:
        (...) int64 in [0, C); never an entry of weight 0.
    """
    if weights.shape[-1] % _BLOCK:
        cumulative = weights.cumsum(dim=-1)
        return _place_of(cumulative, uniforms * cumulative[..., -1])
    # a block first, then an entry of it: running sums are slow
    blocks = weights.unflatten(-1, (-1, _BLOCK))
    cumulative = blocks.sum(dim=-1).cumsum(dim=-1)
    target = uniforms * cumulative[..., -1]
    block = _place_of(cumulative, target)
    before = torch.nn.functional.pad(cumulative, (1, 0)).gather(-1, block[..., None])[..., 0]
    chosen = blocks.gather(-2, block[..., None, None].expand(*block.shape, 1, _BLOCK))[..., 0, :]
    return block * _BLOCK + _place_of(chosen.cumsum(dim=-1), target - before)


def _place_of(cumulative: Tensor, target: Tensor) -> Tensor:
    """The entry whose share of the running sums (..., C) the target (...) falls into."""
    place = torch.searchsorted(cumulative, target[..., None], right=True)[..., 0]
    # rounding may put the target on the total: then the last entry that has weight
    last = torch.searchsorted(cumulative, cumulative[..., -1:].contiguous())[..., 0]
    return torch.minimum(place, last)


def _gumbel(uniforms: Tensor) -> Tensor:
    return -(-uniforms.clamp_min(1e-20).log()).clamp_min(1e-20).log()


def _per_row(generators: Sequence[torch.Generator], shape: tuple[int, ...], size: int) -> Tensor:
    if len(generators) != size:
        raise ValueError(f"{size} rows need as many generators; found {len(generators)}")
    rows = [torch.rand(shape, generator=generator) for generator in generators]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


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


def _draw_top_k(logits: Tensor, top_k: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row, (N,), of logits (N, V) cut to each row's `top_k` and divided by its temperature."""
    most = min(int(top_k.max()), logits.shape[1])
    values, tokens = (part.cpu() for part in logits.float().topk(most, dim=1))  # the few that count
    cut = torch.arange(most) >= top_k[:, None]
    weights = (values / temperature[:, None]).masked_fill(cut, -math.inf).softmax(dim=1)
    return tokens.gather(1, inverse_cdf(weights, uniforms)[:, None])[:, 0]


def _until(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row
