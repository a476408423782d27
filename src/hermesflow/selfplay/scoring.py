"""Preference scores: how close a caption is to the true one, and how well a model answers about its own image.

Scores are pure functions of their inputs and of the batch they are called with; stages fix the batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from hermesflow.config.sections import CaptionMeasure, Decoding, Scoring, VqaMethod
from hermesflow.core.finite import check_finite
from hermesflow.data.worlds.questions import Question
from hermesflow.models.backbone import UnifiedModel
from hermesflow.models.sentence_encoder import SentenceEncoder
from hermesflow.selfplay.sampling import sample_texts

CAPTION_MEASURES: tuple[CaptionMeasure, ...] = get_args(CaptionMeasure)
VQA_METHODS: tuple[VqaMethod, ...] = get_args(VqaMethod)


def caption_scores(
    captions: Sequence[str],
    references: Sequence[str],
    *,
    measure: CaptionMeasure,
    encoder: SentenceEncoder | None = None,
) -> np.ndarray:
    """Similarity s(y, y_k) of each caption with its reference; equal pairs of texts are scored once.

    Args:
        captions: N candidate captions.
        references: N true captions.
        measure: `embedding`: cosine in [-1, 1]; `chrf` (character n-grams) and `bleu` (one and two words: a
            single caption rarely shares four) in [0, 1].
        encoder: needed for `embedding`.

    Returns:
        (N,) float64.

    Source: HermesFlow section 3.2 (cosine of BERT vectors).
    """
    pairs = list(zip(captions, references, strict=True))
    unique = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    if measure == "embedding":
        if encoder is None:
            raise ValueError("caption_scores: measure `embedding` needs an encoder")
        values = _cosines(list(unique), encoder)
    else:
        values = np.array([_ngram_score(caption, reference, measure) for caption, reference in unique], dtype=float)
    return values[[unique[pair] for pair in pairs]] if pairs else np.zeros(0)


def _cosines(pairs: list[tuple[str, str]], encoder: SentenceEncoder) -> np.ndarray:
    vectors = encoder.encode([text for pair in pairs for text in pair]).double()
    return (vectors[::2] * vectors[1::2]).sum(1).numpy()


def _ngram_score(caption: str, reference: str, measure: CaptionMeasure) -> float:
    from torchmetrics.functional.text import bleu_score, chrf_score

    if not caption.strip():
        return 0.0  # an empty caption shares nothing
    if measure == "chrf":
        return float(chrf_score([caption], [[reference]]))  # type: ignore[arg-type]
    words = min(2, len(caption.split()), len(reference.split()))
    return float(bleu_score([caption], [[reference]], n_gram=words))


def nearest_choice(
    answers: Sequence[str], choices: Sequence[Sequence[str]], encoder: SentenceEncoder | None
) -> list[str]:
    """Map each free answer to the choice it is nearest to by cosine.

    An answer that is one of its choices is that choice (its cosine is 1) and costs no encoding. Ties go to the
    first choice.

    Args:
        answers: N free answers.
        choices: N lists of choices, none empty.
        encoder: needed as soon as one answer is not literally among its choices.

    Source: HermesFlow section 3.2 and its released code (all-mpnet-base-v2 there).
    """
    mapped = [_normal(answer) for answer in answers]
    literal = [next((c for c in cs if _normal(c) == a), None) for a, cs in zip(mapped, choices, strict=True)]
    open_ = [i for i, choice in enumerate(literal) if choice is None]
    if not open_:
        return [choice for choice in literal if choice is not None]
    if encoder is None:
        raise ValueError("nearest_choice: answers outside their choices need an encoder")
    texts = sorted({mapped[i] for i in open_} | {_normal(c) for i in open_ for c in choices[i]})
    vector = dict(zip(texts, encoder.encode(texts).double(), strict=True))
    for i in open_:
        cosines = torch.stack([vector[_normal(c)] for c in choices[i]]) @ vector[mapped[i]]
        literal[i] = choices[i][int(cosines.argmax())]
    return [choice for choice in literal if choice is not None]


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


class _Choices(tuple[str, ...]):
    """Choices in a prompt: a list in Python, as the released code writes them, or joined by a specification."""

    def __format__(self, between: str) -> str:
        return between.join(self) if between else str(list(self))


def question_texts(questions: Sequence[Question], prompt: str | None) -> list[str]:
    """What a model is asked, without its own template.

    Args:
        questions: Q questions.
        prompt: `scoring.vqa_prompt`; None is the question alone.

    Source: inference_mmu_vqa.py of HermesFlow's released code (`Question:{question} Choice:{choices}`).
    """
    return [(prompt or "{question}").format(question=q.question, choices=_Choices(q.choices)) for q in questions]


def free_answers(
    model: UnifiedModel, seen: Tensor, owners: Tensor, questions: Sequence[str], *, max_answer_tokens: int
) -> list[str]:
    """The model's greedy free-form answers, all questions of all images in one cached session.

    Equal (image, question) rows are answered once.

    Args:
        model: who answers.
        seen: (N, *seen) images.
        owners: (Q,) int64, the image that each question is about.
        questions: Q questions.
        max_answer_tokens: at most so many tokens per answer.
    """
    rows, images, first, inverse = _unique_rows(seen, owners, questions)
    prompts = [model.question_template.format(questions[i]) for i in rows]
    answers = sample_texts(
        model,
        seen[images],
        first,
        prompts,
        decodings=[Decoding(top_k=1, temperature=1.0)] * len(rows),
        max_new_tokens=max_answer_tokens,
        generators=[torch.Generator()] * len(rows),  # greedy: never drawn from
    )
    return [answers[i] for i in inverse]


def vqa_generate(
    model: UnifiedModel,
    seen: Tensor,
    owners: Tensor,
    questions: Sequence[Question],
    *,
    encoder: SentenceEncoder | None,
    max_answer_tokens: int,
    prompt: str | None = None,
) -> list[str]:
    """Answer each question by a free answer mapped to its nearest choice.

    Args:
        model: who answers.
        seen: (N, *seen) images.
        owners: (Q,) int64, the image that each question is about.
        questions: Q questions.
        encoder: maps answers outside the choices.
        max_answer_tokens: at most so many tokens per answer.
        prompt: `scoring.vqa_prompt`.

    Returns:
        Q choices.

    Source: HermesFlow section 3.2.
    """
    answers = free_answers(model, seen, owners, question_texts(questions, prompt), max_answer_tokens=max_answer_tokens)
    return nearest_choice(answers, [q.choices for q in questions], encoder)


def vqa_likelihood(
    model: UnifiedModel, seen: Tensor, owners: Tensor, questions: Sequence[Question], *, prompt: str | None = None
) -> list[str]:
    """Answer each question by the choice of the highest log-likelihood (end token included); ties go to the first.

    Args:
        model: who answers.
        seen: (N, *seen) images.
        owners: (Q,) int64, the image that each question is about.
        questions: Q questions.
        prompt: `scoring.vqa_prompt`.

    Returns:
        Q choices.
    """
    texts = question_texts(questions, prompt)
    flat = [(i, choice) for i, q in enumerate(questions) for choice in q.choices]
    keys = [(texts[i], choice) for i, choice in flat]
    logps = _answer_logps(model, seen, owners[[i for i, _ in flat]], keys).split([len(q.choices) for q in questions])
    return [q.choices[int(choice_logps.argmax())] for q, choice_logps in zip(questions, logps, strict=True)]


@torch.inference_mode()
def _answer_logps(model: UnifiedModel, seen: Tensor, owners: Tensor, keys: Sequence[tuple[str, str]]) -> Tensor:
    """Log-probability of each (question, answer) about image seen[owners[i]], (N,) float64 nats on the CPU."""
    rows, images, first, inverse = _unique_rows(seen, owners, keys)
    prompts = [model.question_template.format(keys[i][0]) for i in rows]
    logps = model.text_logps(seen[images], prompts, [keys[i][1] for i in rows], owners=first)
    with model.naming():
        check_finite(
            logps,
            lambda row: (
                "the log-prob of answer `{1}` to `{0}`".format(*keys[rows[row]]) + f" about image {owners[rows[row]]}"
            ),
        )
    return logps.double().cpu()[inverse]


def vqa_probability(
    model: UnifiedModel, seen: Tensor, owners: Tensor, questions: Sequence[Question], *, prompt: str | None = None
) -> np.ndarray:
    """Computes the probability that the model gives the correct answer, end token included, to each question.

    Unlike accuracy, this distinguishes images whose questions are all answered correctly.

    Args:
        model: the model that answers.
        seen: (N, *seen) images.
        owners: (Q,) int64, the index of the image that each question is about.
        questions: Q questions. Their choices count as far as the prompt shows them.
        prompt: `scoring.vqa_prompt`.

    Returns:
        (Q,) float64 in [0, 1].

    Source: Lin et al. 2024 (VQAScore), P(answer | image, question).
    """
    keys = [(text, q.answer) for text, q in zip(question_texts(questions, prompt), questions, strict=True)]
    return _answer_logps(model, seen, owners, keys).exp().numpy()


def answer_credits(
    model: UnifiedModel,
    seen: Tensor,
    owners: Tensor,
    questions: Sequence[Question],
    *,
    method: VqaMethod,
    settings: Scoring,
    encoder: SentenceEncoder | None,
) -> np.ndarray:
    """What each question earns its image by the named self-VQA method; arguments as `vqa_generate`.

    Returns:
        (Q,) float64: 1 for a right answer and 0 for a wrong one, or the probability of the right one.
    """
    if not questions:
        return np.zeros(0)
    prompt, longest = settings.vqa_prompt, settings.max_answer_tokens
    if method == "probability":
        return vqa_probability(model, seen, owners, questions, prompt=prompt)
    if method == "likelihood":
        answers = vqa_likelihood(model, seen, owners, questions, prompt=prompt)
    else:
        answers = vqa_generate(
            model, seen, owners, questions, encoder=encoder, max_answer_tokens=longest, prompt=prompt
        )
    return np.array([float(answer == q.answer) for answer, q in zip(answers, questions, strict=True)])


def sum_per_image(credits: np.ndarray, owners: Tensor, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Credits earned and questions asked per image.

    Returns:
        earned (num_images,) float64 and asked (num_images,) int64.
    """
    owner = owners.numpy()
    return np.bincount(owner, weights=credits, minlength=num_images), np.bincount(owner, minlength=num_images)


def _unique_rows(seen: Tensor, owners: Tensor, keys: Sequence[Any]) -> tuple[list[int], list[int], Tensor, list[int]]:
    """Equal (image, key) rows once.

    Returns:
        rows: indices of the U first occurrences; images: indices of the M different images; the (U,) image of each
        unique row as a position in `images`; inverse: for every row its position in `rows`.
    """
    image_of: dict[bytes, int] = {}
    images: list[int] = []
    canonical = []
    for i, row in enumerate(np.ascontiguousarray(seen.cpu().numpy())):
        key = row.tobytes()
        if key not in image_of:
            image_of[key] = len(images)
            images.append(i)
        canonical.append(image_of[key])
    owner = [canonical[o] for o in owners.tolist()]
    position: dict[tuple[int, Any], int] = {}
    rows: list[int] = []
    inverse = []
    for i, key in enumerate(zip(owner, keys, strict=True)):
        if key not in position:
            position[key] = len(rows)
            rows.append(i)
        inverse.append(position[key])
    return rows, images, torch.tensor([owner[i] for i in rows], dtype=torch.long), inverse
