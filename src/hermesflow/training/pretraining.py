"""Training of the base model from scratch, draw from captions, answer about images.

Each step takes t2i rows (an image from a caption, by the model's own loss) and mmu rows (a caption or an answer about
an image). Released models bring their weights and skip this stage.
Source: Show-o (arXiv 2408.12528) section 3.2; schedule: AdamW, one cycle per stage. Muon: Jordan et al. 2024,
kellerjordan.github.io/posts/muon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hermesflow.config.sections import BaseTraining
from hermesflow.core.finite import clip_gradients
from hermesflow.models.backbone import Noise, UnifiedModel
from hermesflow.training.optimizers import AdamW

Text: TypeAlias = tuple[str, str]
"""A prompt and its completion."""
Optimization: TypeAlias = tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]
"""An optimizer and its schedule."""


@dataclass(frozen=True)
class Example:
    """One real image with its caption and questions."""

    caption: str
    questions: tuple[tuple[str, str], ...]
    """(question, answer) pairs; never empty."""


@dataclass(frozen=True)
class Batch:
    """Rows of one step: B captions with images (B, *generated), and texts: text i is about mmu_seen[mmu_owners[i]]."""

    t2i_captions: list[str]
    t2i_images: Tensor
    t2i_noise: Noise
    mmu_seen: Tensor
    mmu_owners: Tensor
    mmu_prompts: list[str]
    mmu_completions: list[str]
    mmu_lengths: list[int]
    """Tokens of each completion that are scored."""


def batches(
    examples: Sequence[Example],
    seen: Tensor,
    images: Tensor,
    model: UnifiedModel,
    lengths: Mapping[Text, int],
    settings: BaseTraining,
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Endless seeded batches; every image is used once per pass and side before any is used again.

    The batches of the first stage hold no t2i rows.

    Args:
        examples: N examples.
        seen: (N, *seen), what understanding reads of the same examples.
        images: (N, *generated), what generation is trained on.
        model: gives the prompts their wording, and images their noise.
        lengths: of `text_lengths`.
        settings: batch sizes and shares.
        generator: CPU generator; advanced.
    """
    size = len(examples)
    order_t2i, order_mmu = _endless_order(size, generator), _endless_order(size, generator)
    for step in count(1):
        t2i = [next(order_t2i) for _ in range(settings.t2i_batch_size if step > text_steps(settings) else 0)]
        mmu = [next(order_mmu) for _ in range(math.ceil(settings.mmu_batch_size / settings.texts_per_image))]
        owners = torch.arange(settings.mmu_batch_size) % len(mmu)
        emptied = torch.rand(len(t2i), generator=generator) < settings.prompt_dropout
        noise = model.training_noise(len(t2i), generator)
        texts = [
            _prompt_and_completion(examples[mmu[owner]], model, settings.caption_share, generator) for owner in owners
        ]
        yield Batch(
            t2i_captions=["" if emptied[row] else examples[i].caption for row, i in enumerate(t2i)],
            t2i_images=images[t2i],
            t2i_noise=noise,
            mmu_seen=seen[mmu],
            mmu_owners=owners,
            mmu_prompts=[prompt for prompt, _ in texts],
            mmu_completions=[completion for _, completion in texts],
            mmu_lengths=[lengths[text] for text in texts],
        )


def optimizers_of(model: nn.Module, settings: BaseTraining) -> list[Optimization]:
    """AdamW and its schedule, one cycle per stage (texts alone, then both); biases, norms, embeddings do not decay.

    With `muon_learning_rate`, Muon (torch's; its steps are scaled to the size of AdamW's) trains the matrices between
    embeddings and output heads, by the same schedule.
    """
    first, rate = text_steps(settings), settings.muon_learning_rate
    muon, decayed, undecayed = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or "embed" in name:
            undecayed.append(parameter)
        elif rate is None or parameter.ndim > 2 or "head" in name:
            decayed.append(parameter)
        else:
            muon.append(parameter)
    decay = settings.weight_decay
    groups = [{"params": decayed, "weight_decay": decay}, {"params": undecayed, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2))]
    if rate is not None and muon:
        optimizers.append(torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))

    def share(step: int) -> float:
        if step < first:
            return one_cycle(step / first, settings.warmup_share)
        return one_cycle((step - first) / max(1, settings.steps - first), settings.warmup_share)

    return [(one, torch.optim.lr_scheduler.LambdaLR(one, share)) for one in optimizers]


def text_steps(settings: BaseTraining) -> int:
    """Number of steps of the first stage."""
    return round(settings.text_first * settings.steps)


def one_cycle(progress: float, warmup_share: float) -> float:
    """Share of the peak rate at `progress` (0 to 1): linear warm-up, then a cosine to 0."""
    if progress < warmup_share:
        return (progress + 0.01) / (warmup_share + 0.01)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup_share) / (1 - warmup_share))


def train_step(
    model: UnifiedModel,
    batch: Batch,
    optimizers: Sequence[Optimization],
    settings: BaseTraining,
) -> dict[str, float]:
    """One step of all optimizers; returns losses in nats per token, the gradient norm and the rate of the first.

    Raises:
        NotFiniteError: a gradient is not; no weight was changed.
    """
    loss = mmu = _text_loss(model, batch, settings)
    metrics = {"loss/mmu": mmu.item()}
    if batch.t2i_captions:
        t2i = model.image_loss(batch.t2i_captions, batch.t2i_images, batch.t2i_noise)
        loss = t2i + settings.mmu_weight * mmu
        metrics["loss/t2i"] = t2i.item()
    model.zero_grad(set_to_none=True)
    loss.backward()
    norm = clip_gradients(model, settings.max_grad_norm)
    rate = optimizers[0][1].get_last_lr()[0]
    for optimizer, schedule in optimizers:
        optimizer.step()
        schedule.step()
    return {**metrics, "grad_norm": norm, "lr": float(rate)}


def _text_loss(model: UnifiedModel, batch: Batch, settings: BaseTraining) -> Tensor:
    prompts, completions = batch.mmu_prompts, batch.mmu_completions
    if settings.mmu_reduction == "text_mean":
        return model.text_loss(batch.mmu_seen, batch.mmu_owners, prompts, completions)
    logps = model.text_logps(batch.mmu_seen, prompts, completions, owners=batch.mmu_owners)
    return -logps.sum() / max(sum(batch.mmu_lengths), 1)


def text_lengths(examples: Sequence[Example], model: UnifiedModel) -> tuple[dict[Text, int], int]:
    """Scored tokens of each different prompt and completion; how many are cut for lack of room, and so have no end."""
    texts = list(
        {(model.caption_prompt, one.caption) for one in examples}
        | {(model.question_template.format(question), answer) for one in examples for question, answer in one.questions}
    )
    prompts, completions = [prompt for prompt, _ in texts], [completion for _, completion in texts]
    whole = model.completion_tokens(completions)
    lengths = model.scored_lengths(prompts, whole)
    cut = sum(len(tokens) > length for tokens, length in zip(whole, lengths, strict=True))
    return dict(zip(texts, lengths, strict=True)), cut


def _endless_order(size: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def _prompt_and_completion(
    example: Example, model: UnifiedModel, caption_share: float, generator: torch.Generator
) -> Text:
    if torch.rand((), generator=generator) < caption_share:
        return model.caption_prompt, example.caption
    pick = int(torch.randint(len(example.questions), (), generator=generator))
    question, answer = example.questions[pick]
    return model.question_template.format(question), answer
