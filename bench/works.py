"""The five works that are measured: how we do them, how the plain path does, and the limit of what they need."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench import cached, limits, plain, sizes
from bench.cached import Cached
from bench.limits import Pass
from bench.sizes import Size
from hermesflow.models.backbone import UnifiedModel
from hermesflow.models.next_token.base import NextTokenModel
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import nearest_choice, vqa_generate, vqa_likelihood
from hermesflow.training.logps import Logps, PairLogps
from hermesflow.training.pair_dpo import new_optimizer, step_loss
from hermesflow.training.pairs import HomologousPairs, PairBatch

Run = Callable[[], Any]
SAME = 4
"""Codes of images written token by token that are compared."""
NAMES = ("captioning", "vqa_generate", "vqa_likelihood", "image_decoding", "pair_dpo_step")


@dataclass(frozen=True)
class Side:
    """One way to do a work."""

    prepare: Callable[[], Run]
    """Makes what the work holds besides the model; counts as memory, not as time."""
    share: float = 1.0
    """Part of the work that a run does, by counted FLOPs."""


@dataclass(frozen=True)
class Work:
    """One entry."""

    about: str
    ours: Side
    plain: Side
    limit: list[Pass]
    """Of the whole work."""
    same: Callable[[Any, Any], bool]
    """Whether the results of both sides agree, where both did the whole work."""


def works(size: Size, model: UnifiedModel, *, full: bool) -> dict[str, Callable[[], Work]]:
    """All of them by name. What takes long is measured in part unless `full`."""
    makers = (captioning, answering, choosing, drawing, training)
    return {name: partial(maker, size, model, full=full) for name, maker in zip(NAMES, makers, strict=True)}


def captioning(size: Size, model: UnifiedModel, *, full: bool) -> Work:
    """Captions of an image, the first greedy, the others drawn; ours does several images at once, as the stages do."""
    prompt, tokens, theirs = model.caption_prompt, size.new_tokens, plain_path(model)
    [image] = sizes.images(size, 1, model.seen)

    def whole() -> list[str]:
        ways = {"decodings": sizes.decodings(size.captions), "generators": sizes.generators(size.captions)}
        return [model.detokenize(text) for text in theirs.write_texts(image, prompt, max_new_tokens=tokens, **ways)]

    start = 1 + len(prompt.split())
    every = [start + written for written in range(tokens)]
    some = every[tokens // 10 :: max(tokens // 5, 1)]
    return Work(
        about=f"{size.captions} captions of {tokens} tokens about one image; ours of {size.together} images at once",
        ours=_at_once(
            lambda: write(size, model, count=size.captions, tokens=tokens, images=size.together), size.together
        ),
        plain=_next_tokens(size, model, some, every * size.captions) if in_part(model, full) else _at_once(whole),
        limit=limits.captioning(size.decoder, prompt=start, rows=size.captions, tokens=tokens, together=size.together),
        same=lambda one, other: one[: len(other)] == other,
    )


def answering(size: Size, model: UnifiedModel, *, full: bool) -> Work:
    """Free answers to questions about one image, mapped to their nearest choices."""
    image, asked, tokens = sizes.images(size, 1, model.seen), sizes.questions(size), size.answer_tokens
    owners, encoder, theirs = torch.zeros(len(asked), dtype=torch.int64), sizes.WordEncoder(), plain_path(model)

    def ours() -> list[str]:
        options: dict[str, Any] = {"encoder": encoder, "max_answer_tokens": tokens}
        return vqa_generate(model, image, owners, asked, **options)

    def whole() -> list[str]:
        answers = [theirs.answer(image[0], q.question, max_answer_tokens=tokens) for q in asked]
        texts = [model.detokenize(answer) for answer in answers]
        return nearest_choice(texts, [q.choices for q in asked], encoder)  # type: ignore[arg-type]

    starts = [1 + len(model.question_template.format(q.question).split()) for q in asked]
    every = [start + written for start in starts for written in range(tokens)]
    some = [start + tokens // 2 for start in starts]
    return Work(
        about=f"{len(asked)} questions about one image, {tokens} new tokens each",
        ours=_at_once(ours),
        plain=_next_tokens(size, model, some, every) if in_part(model, full) else _at_once(whole),
        limit=limits.vqa_generate(size.decoder, prompts=starts, tokens=tokens),
        same=lambda one, other: one == other,
    )


def choosing(size: Size, model: UnifiedModel, *, full: bool) -> Work:
    """The likeliest choices of the same questions; the plain path always does all of it."""
    image, asked, theirs = sizes.images(size, 1, model.seen), sizes.questions(size), plain_path(model)
    owners = torch.zeros(len(asked), dtype=torch.int64)
    starts = [1 + len(model.question_template.format(q.question).split()) for q in asked]
    choices = [[len(choice.split()) for choice in q.choices] for q in asked]
    return Work(
        about=f"{len(asked)} questions about one image, {size.choices} choices each",
        ours=_at_once(lambda: vqa_likelihood(model, image, owners, asked)),
        plain=_at_once(lambda: [theirs.likeliest_choice(image[0], q) for q in asked]),
        limit=limits.vqa_likelihood(size.decoder, prompts=starts, choices=choices),
        same=lambda one, other: one == other,
    )


def drawing(size: Size, model: UnifiedModel, *, full: bool) -> Work:
    """Guided images; in part it is a decoding of fewer steps, which masks as much on average."""
    captions, theirs = sizes.prompts(size, size.images), plain_path(model)
    counted: dict[str, Any] = {
        "texts": prompt_lengths(model, list(dict.fromkeys(captions))),
        "rows_each": size.images // size.prompts,
        "guided": True,
    }
    limit = limits.image_decoding(size.decoder, steps=size.steps, **counted)
    steps, share, plain_steps = size.steps, 1.0, size.steps
    if in_part(model, full):
        part = limits.image_decoding(size.decoder, steps=size.measured_steps, **counted)
        steps, share, plain_steps = size.measured_steps, limits.flops_of(part) / limits.flops_of(limit), 1

    def whole() -> Tensor:
        settings, rows = sizes.drawing(plain_steps), sizes.generators(len(captions))
        return theirs.draw_images(captions, settings=settings, generators=rows)

    tokens = math.prod(model.generated.shape)
    return Work(
        about=f"{len(captions)} guided images of {tokens} tokens"
        + (f", {size.steps} steps" if is_masked(model) else ""),
        ours=_at_once(lambda: draw(model, captions, steps=steps), share),
        plain=_at_once(whole, plain_steps / size.steps),
        limit=limit,
        # code by code, all that is behind a draw at the rounding of a sum is another image
        same=torch.equal if is_masked(model) else lambda one, other: torch.equal(one[:, :SAME], other[:, :SAME]),
    )


def training(size: Size, model: UnifiedModel, *, full: bool) -> Work:
    """A step of Pair-DPO; ours has the reference's log-probs, the plain path computes them."""
    batch = pair_batch(sizes.homologous(size, size.pairs, model=model), size.pairs)

    def theirs() -> Run:
        policy, optimizer = trained(model)
        logps, reference_logps = (plain_path(one).pair_logps for one in (policy, copy.deepcopy(model)))
        return lambda: plain.pair_dpo_step(policy, logps, reference_logps, optimizer, batch, training=sizes.TRAINING)

    scored = model.scored_tokens(batch.noise, size.pairs).long().tolist()
    chosen, rejected = map(model.completion_tokens, (batch.chosen_captions, batch.rejected_captions))
    rows = zip(chosen, rejected, prompt_lengths(model, batch.captions), scored, strict=True)
    pairs = [limits.PairLengths((len(c) - 1, len(r) - 1), length, count) for c, r, length, count in rows]
    prompt = 1 + len(model.caption_prompt.split())
    return Work(
        about=f"one step on {size.pairs} homologous pairs",
        ours=Side(partial(step, model, batch, stored(model, batch))),
        plain=Side(theirs),
        limit=limits.pair_dpo_step(size.decoder, prompt=prompt, pairs=pairs),
        same=partial(torch.allclose, rtol=1e-4, atol=0.0),
    )


def plain_path(model: UnifiedModel) -> Any:
    """What does the same plainly: the functions of `cached`, or of `plain`."""
    if isinstance(model, NextTokenModel):
        return Cached(model)
    names = ("write_texts", "answer", "likeliest_choice", "draw_images", "pair_logps")
    return SimpleNamespace(**{name: partial(getattr(plain, name), model) for name in names})


def bars(model: UnifiedModel) -> Mapping[str, float]:
    """Times faster than that which are asked for."""
    return cached.BARS if isinstance(model, NextTokenModel) else plain.BARS


def is_masked(model: UnifiedModel) -> bool:
    """Whether images are drawn by MaskGIT, with all of a row run again in every step."""
    return not isinstance(model, NextTokenModel)


def in_part(model: UnifiedModel, full: bool) -> bool:
    """Whether a part of the work stands for all of it: where the plain path takes minutes."""
    return is_masked(model) and not full


def prompt_lengths(model: UnifiedModel, captions: Sequence[str]) -> list[int]:
    """Columns of the prompts that images are drawn from."""
    if isinstance(model, NextTokenModel):
        return [len(prompt) for prompt in model.generation_prompts(model.image_texts(captions))]
    return [3 + len(caption.split()) for caption in captions]


def write(size: Size, model: UnifiedModel, *, count: int, tokens: int, images: int = 1) -> list[str]:
    """Our captions: `count` of each image."""
    rows = count * images
    return sample_texts(
        model,
        sizes.images(size, images, model.seen),
        torch.arange(images).repeat_interleave(count),
        [model.caption_prompt] * rows,
        decodings=sizes.decodings(count) * images,
        max_new_tokens=tokens,
        generators=sizes.generators(rows),
    )


def draw(model: UnifiedModel, captions: Sequence[str], *, steps: int) -> Tensor:
    """Our images."""
    return model.generate_images(captions, settings=sizes.drawing(steps), generators=sizes.generators(len(captions)))


@torch.no_grad()
def stored(model: UnifiedModel, batch: PairBatch) -> Logps:
    """Log-probs of the reference, which training reads from a table."""
    return PairLogps(model, "pair").eval()(batch)


def step(model: UnifiedModel, batch: PairBatch, reference: Logps) -> Run:
    """Our step of Pair-DPO on a copy of the model, as `train.train_policy` takes it."""
    policy, optimizer = trained(model)
    scorer = PairLogps(policy, "pair").eval()

    def run() -> Tensor:
        loss = step_loss(scorer(batch), reference, objective="pair", training=sizes.TRAINING)[0].mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), sizes.TRAINING.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack([loss.detach(), norm])

    return run


def trained(model: UnifiedModel) -> tuple[UnifiedModel, torch.optim.Optimizer]:
    """A copy to train and its optimiser, whose moments are there as after a first step."""
    policy = copy.deepcopy(model)
    optimizer = new_optimizer(policy, sizes.TRAINING)
    for parameter in (one for group in optimizer.param_groups for one in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad()
    for group in optimizer.param_groups:
        group["lr"] = sizes.TRAINING.learning_rate
    return policy, optimizer


def pair_batch(pairs: HomologousPairs, count: int) -> PairBatch:
    """The first batch of a training."""
    return pairs.batch(pairs.rows(count), device="cpu")


def _at_once(run: Run, share: float = 1.0) -> Side:
    return Side(lambda: run, share)


def _next_tokens(size: Size, model: UnifiedModel, some: Sequence[int], every: Sequence[int]) -> Side:
    """The plain path at texts of some of all the lengths at which it computes the next token."""
    image, words = sizes.images(size, 1)[0], [2] * max(every)

    @torch.inference_mode()
    def run() -> None:
        for length in some:
            plain.next_logits(model, image, words[:length])  # type: ignore[arg-type]

    def flops(length: int) -> float:
        return limits.plain_flops(size.decoder, rows=1, length=size.decoder.image_prefix + length)

    return _at_once(run, sum(map(flops, some)) / sum(map(flops, every)))
