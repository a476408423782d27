"""The plain path: what the released code computes, as plainly as it can be written. It says what is right.

No cache, no packing, no sharing: every row is run whole, again for every token and step, with logits over the whole
vocabulary at every place; rows that are batched are padded to the longest there may be. The weights are `ShowO`'s.

    t2i: [padding..] <|t2i|> sot text eot <|soi|> codes <|eoi|>         (text at most max_text_tokens + 1 columns)
    mmu: <|mmu|> <|soi|> codes <|eoi|> sot prompt completion eot [padding..]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hermesflow.config.sections import Decoding, ImageSampling, Training
from hermesflow.data.worlds.questions import Question
from hermesflow.models.backbone import Completion
from hermesflow.models.draws import inverse_cdf
from hermesflow.models.showo import generation
from hermesflow.models.showo.model import ShowO
from hermesflow.training.logps import Logps
from hermesflow.training.pair_dpo import step_loss
from hermesflow.training.pairs import PairBatch

BARS = {
    "captioning": 80.0,
    "vqa_generate": 25.0,
    "vqa_likelihood": 10.0,
    "image_decoding": 1.6,
    "pair_dpo_step": 2.2,
}
"""Times faster than this that issue 5 asks for at size `medium`."""
GREEDY = Decoding(top_k=1, temperature=1.0)


def logits_of(model: ShowO, rows: Tensor, mask: Tensor) -> Tensor:
    """Logits over the whole vocabulary at every place.

    Args:
        model: whose weights are used.
        rows: (B, L) int64 token ids.
        mask: (B, 1, L, L) bool, True = may attend.

    Returns:
        (B, L, V).
    """
    places = torch.arange(rows.shape[1])[None]
    output = model.showo.model(input_ids=rows, attention_mask=mask, position_ids=places, use_cache=False)
    return model.showo.lm_head(output.last_hidden_state)


# what is written about an image


def text_row(model: ShowO, codes: Tensor, text: Sequence[int], *, length: int | None = None) -> Tensor:
    """A row about one image, (L,), padded to `length` columns of text."""
    ids = model.ids
    padding = [ids.pad] * (0 if length is None else length - len(text))
    image = [ids.special("mmu"), ids.special("soi"), *(codes + ids.first_code).tolist(), ids.special("eoi")]
    return torch.tensor([*image, *text, *padding])


def text_mask(model: ShowO, length: int) -> Tensor:
    """The image sees itself whole, the text what is before it: (1, 1, L, L), L = image and `length` of text."""
    image = model.num_image_tokens + 3
    place = torch.arange(image + length)
    return ((place[None] <= place[:, None]) | (place[None] < image))[None, None]


def next_logits(model: ShowO, codes: Tensor, text: Sequence[int]) -> Tensor:
    """Logits of the token after `text`, (V,): one pass over all that is before it."""
    return logits_of(model, text_row(model, codes, text)[None], text_mask(model, len(text)))[0, -1]


@torch.inference_mode()
def write_text(
    model: ShowO, codes: Tensor, prompt: str, *, decoding: Decoding, max_new_tokens: int, generator: torch.Generator
) -> list[int]:
    """One text about one image, (T,) codes: its tokens before the end token."""
    uniforms = torch.rand(max_new_tokens, generator=generator)
    [asked] = model.tokenizer.encode([prompt])
    written: list[int] = []
    for uniform in uniforms:
        token = drawn_token(next_logits(model, codes, [model.ids.boundary, *asked, *written]), decoding, uniform)
        if token == model.end_token:
            break
        written.append(token)
    return written


def drawn_token(logits: Tensor, decoding: Decoding, uniform: Tensor) -> int:
    """One token of logits (V,)."""
    likeliest = logits.topk(decoding.top_k)
    return int(likeliest.indices[inverse_cdf((likeliest.values / decoding.temperature).softmax(dim=0), uniform)])


def write_texts(
    model: ShowO,
    codes: Tensor,
    prompt: str,
    *,
    decodings: Sequence[Decoding],
    max_new_tokens: int,
    generators: Sequence[torch.Generator],
) -> list[list[int]]:
    """Texts about one image, one for each decoding."""
    rows = zip(decodings, generators, strict=True)
    return [
        write_text(model, codes, prompt, decoding=one, max_new_tokens=max_new_tokens, generator=generator)
        for one, generator in rows
    ]


def answer(model: ShowO, codes: Tensor, question: str, *, max_answer_tokens: int) -> list[int]:
    """The greedy answer to a question about one image, as tokens."""
    prompt, never = model.question_template.format(question), torch.Generator()
    return write_text(model, codes, prompt, decoding=GREEDY, max_new_tokens=max_answer_tokens, generator=never)


@torch.inference_mode()
def likeliest_choice(model: ShowO, codes: Tensor, question: Question) -> str:
    """The choice of the highest log-likelihood, end token included; the first of equals."""
    prompt = model.question_template.format(question.question)
    found = [float(text_logps(model, codes[None], [prompt], [choice])) for choice in question.choices]
    return question.choices[found.index(max(found))]


def text_logps(model: ShowO, codes: Tensor, prompts: Sequence[str], completions: Sequence[Completion]) -> Tensor:
    """Log p of each completion and its end token, (B,) nats, of images codes (B, T)."""
    return torch.cat([_text_logps_of_one(model, *row) for row in zip(codes, prompts, completions, strict=True)])


def _text_logps_of_one(model: ShowO, codes: Tensor, prompt: str, completion: Completion) -> Tensor:
    rows, scored = text_rows(model, codes[None], [prompt], [completion], length=None)
    return _text_logps_of(logits_of(model, rows, text_mask(model, rows.shape[1] - len(codes) - 3)), rows, scored)


def text_rows(
    model: ShowO, codes: Tensor, prompts: Sequence[str], completions: Sequence[Completion], *, length: int | None
) -> tuple[Tensor, Tensor]:
    """Rows (B, L) with `length` columns of text, None for one row that is not padded; and what is scored, (B, L)."""
    end = model.ids.boundary
    encoded = zip(model.tokenizer.encode(prompts), model.completion_tokens(completions), strict=True)
    rows, scored = [], []
    for image, (prompt, completion) in zip(codes, encoded, strict=True):
        text = [end, *prompt, *completion]
        assert len(text) <= model.shape.max_text_tokens, "the plain path cuts nothing"
        rows.append(text_row(model, image, text, length=length))
        place = torch.arange(len(rows[-1])) - (len(image) + 3)
        scored.append((place > len(prompt)) & (place < len(text)))
    return torch.stack(rows), torch.stack(scored)


# images that are drawn


def image_rows(model: ShowO, captions: Sequence[str], codes: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, L) padded at the left, and who sees whom in them, (B, 1, L, L)."""
    ids, width = model.ids, model.shape.max_text_tokens + 1
    texts, padding = [], []
    for text in model.tokenizer.encode(captions):
        own = [ids.special("t2i"), ids.boundary, *text, ids.boundary]
        assert len(own) <= width, "the plain path cuts nothing"
        padding.append(width - len(own))
        texts.append([ids.pad] * padding[-1] + own)
    image = torch.where(masked, ids.mask, codes + ids.first_code)
    start, end = (torch.full((len(image), 1), ids.special(name)) for name in ("soi", "eoi"))
    rows = torch.cat([torch.tensor(texts), start, image, end], dim=1)
    place = torch.arange(rows.shape[1])
    query, key = place[:, None], place[None]
    seen = (key <= query) | (query >= width)  # the text is causal, the image sees all
    real = key >= torch.tensor(padding)[:, None, None]
    return rows, (seen & real | (key == query))[:, None]  # padding sees itself, lest its soft-max be empty


def guided_logits(model: ShowO, captions: Sequence[str], codes: Tensor, masked: Tensor, *, guidance: float) -> Tensor:
    """Logits over the codes at every place of B images, (B, T, C)."""
    if guidance == 0:
        return image_logits(model, captions, codes, masked)[..., model.ids.first_code : model.ids.mask]
    both = image_logits(model, [*captions, *[""] * len(captions)], codes.repeat(2, 1), masked.repeat(2, 1))
    conditional, unconditional = both.chunk(2)
    logits = (1 + guidance) * conditional - guidance * unconditional
    return logits[..., model.ids.first_code : model.ids.mask]


def image_logits(model: ShowO, captions: Sequence[str], codes: Tensor, masked: Tensor) -> Tensor:
    """Logits over the whole vocabulary at the image's places, (B, T, V), of all that were computed."""
    return logits_of(model, *image_rows(model, captions, codes, masked))[:, -model.num_image_tokens - 1 : -1]


@torch.inference_mode()
def draw_images(
    model: ShowO, captions: Sequence[str], *, settings: ImageSampling, generators: Sequence[torch.Generator]
) -> Tensor:
    """MaskGIT decoding, (B, T) codes; random numbers, and what is done with them, as `generation.generate_images`."""
    size, steps, tokens = len(captions), settings.steps, model.num_image_tokens
    uniforms = torch.stack([torch.rand((steps, 2, tokens), generator=generator) for generator in generators])
    codes = torch.zeros(size, tokens, dtype=torch.int64)
    masked = torch.ones(size, tokens, dtype=torch.bool)
    noise = generation._temperatures(settings.temperature, steps, settings.temperature_schedule)
    for step, temperature in enumerate(noise):
        logits = guided_logits(model, captions, codes, masked, guidance=settings.guidance)
        probabilities = logits.softmax(dim=-1)
        codes = torch.where(masked, inverse_cdf(probabilities, uniforms[:, step, 0]), codes)
        chosen = probabilities.gather(-1, codes[..., None])[..., 0]
        confidence = chosen.clamp_min(1e-20).log() + temperature * generation._gumbel(uniforms[:, step, 1])
        count = generation._count_masked(step, steps, tokens, masked)
        masked = generation._least_confident(confidence, masked, count)
    return codes


def image_logps(model: ShowO, captions: Sequence[str], codes: Tensor, masked: Tensor) -> Tensor:
    """Log p of the masked codes, (B,) nats, each predicted at its own place."""
    return _image_logps_of(model, image_logits(model, captions, codes, masked), codes, masked)


# Pair-DPO


def pair_logps(model: ShowO, batch: PairBatch) -> Logps:
    """All rows of a batch in one pass: chosen and rejected of both skills, image rows and text rows of one length."""
    size = len(batch.rows)
    drawn, masked = torch.cat([batch.chosen_images, batch.rejected_images]), batch.noise.repeat(2, 1)
    images, image_mask = image_rows(model, batch.captions * 2, drawn, masked)
    prompts = [model.caption_prompt] * (2 * size)
    length, completions = model.shape.max_text_tokens, batch.chosen_captions + batch.rejected_captions
    texts, scored = text_rows(model, batch.seen.repeat(2, 1), prompts, completions, length=length)
    mask = torch.cat([image_mask, text_mask(model, length).expand(2 * size, -1, -1, -1)])
    of_images, of_texts = logits_of(model, torch.cat([images, texts]), mask).chunk(2)
    t2i = _image_logps_of(model, of_images[:, -model.num_image_tokens - 1 : -1], drawn, masked)
    mmu = _text_logps_of(of_texts, texts, scored)
    return Logps(*mmu.split(size), *t2i.split(size))


def pair_dpo_step(
    policy: nn.Module,
    pair_logps: Callable[[PairBatch], Logps],
    reference_logps: Callable[[PairBatch], Logps],
    optimizer: torch.optim.Optimizer,
    batch: PairBatch,
    *,
    training: Training,
) -> Tensor:
    """One step of Pair-DPO; the reference runs in it. Returns the loss before it and the norm of its gradient."""
    logps = pair_logps(batch)
    with torch.no_grad():
        reference = reference_logps(batch)
    loss = step_loss(logps, reference, objective="pair", training=training)[0].mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), training.max_grad_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack([loss.detach(), norm])


def _text_logps_of(logits: Tensor, rows: Tensor, scored: Tensor) -> Tensor:
    """Every token is predicted one place before it."""
    return _summed(logits[:, :-1], rows[:, 1:], scored[:, 1:])


def _image_logps_of(model: ShowO, logits: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
    return _summed(logits, codes + model.ids.first_code, masked)


def _summed(logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
    every = logits.log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
    return (every * scored).sum(dim=1)
