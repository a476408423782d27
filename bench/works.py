"""The five works that are measured: how we do them, how the plain path does, and the limit of what they need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench import limits, plain, sizes
from bench.limits import Pass
from bench.sizes import Size
from hermesflow.models.showo.generation import generate_images
from hermesflow.models.showo.model import ShowO
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import nearest_choice, vqa_generate, vqa_likelihood
from hermesflow.training.logps import Logps, PairLogps
from hermesflow.training.pair_dpo import new_optimizer, step_loss
from hermesflow.training.pairs import HomologousPairs, PairBatch

Run = Callable[[], Any]
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


def works(size: Size, model: ShowO, *, full: bool) -> dict[str, Callable[[], Work]]:
    """All of them by name. What takes long is measured in part unless `full`."""
    makers = (captioning, answering, choosing, drawing, training)
    return {name: partial(maker, size, model, full=full) for name, maker in zip(NAMES, makers, strict=True)}


def captioning(size: Size, model: ShowO, *, full: bool) -> Work:
    """Captions of an image, the first greedy, the others drawn; ours does several images at once, as the stages do."""
    image, prompt, tokens = sizes.images(size, 1)[0], model.caption_prompt, size.new_tokens

    def whole() -> list[str]:
        rows = zip(sizes.decodings(size.captions), sizes.generators(size.captions), strict=True)
        return [
            model.detokenize(
                plain.write_text(model, image, prompt, decoding=way, max_new_tokens=tokens, generator=generator)
            )
            for way, generator in rows
        ]

    start = 1 + len(prompt.split())
    every = [start + written for written in range(tokens)]
    some = every[tokens // 10 :: max(tokens // 5, 1)]
    return Work(
        about=f"{size.captions} captions of {tokens} tokens about one image; ours of {size.together} images at once",
        ours=_at_once(
            lambda: write(size, model, count=size.captions, tokens=tokens, images=size.together), size.together
        ),
        plain=_at_once(whole) if full else _next_tokens(size, model, some, every * size.captions),
        limit=limits.captioning(size.decoder, prompt=start, rows=size.captions, tokens=tokens, together=size.together),
        same=lambda one, other: one[: len(other)] == other,
    )


def answering(size: Size, model: ShowO, *, full: bool) -> Work:
    """Free answers to questions about one image, mapped to their nearest choices."""
    image, asked, tokens = sizes.images(size, 1), sizes.questions(size), size.answer_tokens
    owners, encoder = torch.zeros(len(asked), dtype=torch.int64), sizes.WordEncoder()

    def ours() -> list[str]:
        options: dict[str, Any] = {"encoder": encoder, "max_answer_tokens": tokens}
        return vqa_generate(model, image, owners, asked, **options)

    def whole() -> list[str]:
        answers = [plain.answer(model, image[0], q.question, max_answer_tokens=tokens) for q in asked]
        texts = [model.detokenize(answer) for answer in answers]
        return nearest_choice(texts, [q.choices for q in asked], encoder)  # type: ignore[arg-type]

    starts = [1 + len(model.question_template.format(q.question).split()) for q in asked]
    every = [start + written for start in starts for written in range(tokens)]
    some = [start + tokens // 2 for start in starts]
    return Work(
        about=f"{len(asked)} questions about one image, {tokens} new tokens each",
        ours=_at_once(ours),
        plain=_at_once(whole) if full else _next_tokens(size, model, some, every),
        limit=limits.vqa_generate(size.decoder, prompts=starts, tokens=tokens),
        same=lambda one, other: one == other,
    )


def choosing(size: Size, model: ShowO, *, full: bool) -> Work:
    """The likeliest choices of the same questions; the plain path always does all of it."""
    image, asked = sizes.images(size, 1), sizes.questions(size)
    owners = torch.zeros(len(asked), dtype=torch.int64)
    starts = [1 + len(model.question_template.format(q.question).split()) for q in asked]
    choices = [[len(choice.split()) for choice in q.choices] for q in asked]
    return Work(
        about=f"{len(asked)} questions about one image, {size.choices} choices each",
        ours=_at_once(lambda: vqa_likelihood(model, image, owners, asked)),
        plain=_at_once(lambda: [plain.likeliest_choice(model, image[0], q) for q in asked]),
        limit=limits.vqa_likelihood(size.decoder, prompts=starts, choices=choices),
        same=lambda one, other: one == other,
    )


def drawing(size: Size, model: ShowO, *, full: bool) -> Work:
    """Guided images; in part it is a decoding of fewer steps, which masks as much on average."""
    captions = sizes.prompts(size, size.images)
    counted = {
        "texts": [3 + len(caption.split()) for caption in dict.fromkeys(captions)],
        "rows_each": size.images // size.prompts,
        "guided": True,
    }
    limit = limits.image_decoding(size.decoder, steps=size.steps, **counted)
    part = limits.image_decoding(size.decoder, steps=size.measured_steps, **counted)
    steps, share = (size.steps, 1.0) if full else (size.measured_steps, limits.flops_of(part) / limits.flops_of(limit))
    plain_steps = size.steps if full else 1

    def whole() -> Tensor:
        settings, rows = sizes.drawing(plain_steps), sizes.generators(len(captions))
        return plain.draw_images(model, captions, settings=settings, generators=rows)

    return Work(
        about=f"{len(captions)} images of {size.steps} steps with guidance",
        ours=_at_once(lambda: draw(model, captions, steps=steps), share),
        plain=_at_once(whole, plain_steps / size.steps),
        limit=limit,
        same=torch.equal,
    )


def training(size: Size, model: ShowO, *, full: bool) -> Work:
    """A step of Pair-DPO; ours has the reference's log-probs, the plain path computes them."""
    batch = pair_batch(sizes.homologous(size, size.pairs), size.pairs)

    def theirs() -> Run:
        policy, reference = trained(model), copy.deepcopy(model)
        return lambda: plain.pair_dpo_step(policy[0], reference, policy[1], batch, training=sizes.TRAINING)

    rows = zip(batch.chosen_captions, batch.rejected_captions, batch.captions, batch.noise, strict=True)
    pairs = [
        limits.PairLengths((len(chosen.split()), len(rejected.split())), 3 + len(caption.split()), int(masked.sum()))
        for chosen, rejected, caption, masked in rows
    ]
    prompt = 1 + len(model.caption_prompt.split())
    return Work(
        about=f"one step on {size.pairs} homologous pairs",
        ours=Side(partial(step, model, batch, stored(model, batch))),
        plain=Side(theirs),
        limit=limits.pair_dpo_step(size.decoder, prompt=prompt, pairs=pairs),
        same=partial(torch.allclose, rtol=1e-4, atol=0.0),
    )


def write(size: Size, model: ShowO, *, count: int, tokens: int, images: int = 1) -> list[str]:
    """Our captions: `count` of each image."""
    rows = count * images
    return sample_texts(
        model,
        sizes.images(size, images),
        torch.arange(images).repeat_interleave(count),
        [model.caption_prompt] * rows,
        decodings=sizes.decodings(count) * images,
        max_new_tokens=tokens,
        generators=sizes.generators(rows),
    )


def draw(model: ShowO, captions: Sequence[str], *, steps: int) -> Tensor:
    """Our images."""
    return generate_images(model, captions, settings=sizes.drawing(steps), generators=sizes.generators(len(captions)))


@torch.no_grad()
def stored(model: ShowO, batch: PairBatch) -> Logps:
    """Log-probs of the reference, which training reads from a table."""
    return PairLogps(model, "pair").eval()(batch)


def step(model: ShowO, batch: PairBatch, reference: Logps) -> Run:
    """Our step of Pair-DPO on a copy of the model, as `train.train_policy` takes it."""
    policy, optimizer = trained(model)
    scorer = PairLogps(policy, "pair").eval()

    def run() -> Tensor:
        loss = step_loss(scorer(batch), reference, objective="pair", training=sizes.TRAINING)[0].mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), sizes.TRAINING.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return torch.stack([loss.detach(), norm])

    return run


def trained(model: ShowO) -> tuple[ShowO, torch.optim.Optimizer]:
    """A copy to train and its optimiser, whose moments are there as after a first step."""
    policy = copy.deepcopy(model)
    optimizer = new_optimizer(policy, sizes.TRAINING)
    for parameter in policy.parameters():
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


def _next_tokens(size: Size, model: ShowO, some: Sequence[int], every: Sequence[int]) -> Side:
    """The plain path at texts of some of all the lengths at which it computes the next token."""
    image, words = sizes.images(size, 1)[0], [2] * max(every)

    @torch.inference_mode()
    def run() -> None:
        for length in some:
            plain.next_logits(model, image, words[:length])

    def flops(length: int) -> float:
        return limits.plain_flops(size.decoder, rows=1, length=size.decoder.image_prefix + length)

    return _at_once(run, sum(map(flops, some)) / sum(map(flops, every)))
