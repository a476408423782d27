"""DPG-Bench's judge by transformers: BLIP, ViLT, or a chat model that sees images.

The original judge, mPLUG-large (damo/mplug_visual-question-answering_coco_large_en), is released for modelscope alone;
figures by another judge are not those of the paper, so the judge's name belongs beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from hermesflow.config.sections import Source
from hermesflow.evaluation.graders.pretrained import ChatModel, finite, read_pretrained

_TOGETHER = 32  # questions per forward pass
_ANSWER_TOKENS = 10
_ROLE = "the VQA judge"


class VqaJudge(Protocol):
    """Whatever answers questions about an image."""

    image_processor: Any
    """What makes the model's numbers of an image."""

    def answer(self, image: Image.Image, questions: Sequence[str]) -> Sequence[str]:
        """One short answer per question."""

    def is_cut(self, questions: Sequence[str]) -> list[bool]:
        """Which questions are longer than the model takes and lose their end."""


def vqa_judge(source: str | Source, *, device: str = "cpu") -> VqaJudge:
    """The judge that its own configuration says it is.

    Raises:
        ConfigError: it cannot be read, or is neither kind of model.
        FetchError: a source cannot be had.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING as VQA

    config = read_pretrained("AutoConfig", source, role=_ROLE)
    kind = TransformersVqa if type(config) in VQA.keys() else ChatVqa  # noqa: SIM118 (a lazy mapping, not a dict)
    return kind(source, device=device)


class TransformersVqa:
    """A visual-question-answering model: one that writes answers (BLIP) or one that chooses among them (ViLT).

    Questions are cut to what the model's tokenizer takes (ViLT: 40 tokens).

    Raises:
        ConfigError: it cannot be read, or is no such model.
        FetchError: a source cannot be had.
    """

    def __init__(self, source: str | Source, *, device: str = "cpu") -> None:
        kind = "AutoModelForVisualQuestionAnswering"
        self._model = read_pretrained(kind, source, role=_ROLE, use_safetensors=True).to(device).eval()
        self._processor = read_pretrained("AutoProcessor", source, role=_ROLE, backend="pil")
        self.image_processor = self._processor.image_processor

    @torch.inference_mode()
    def answer(self, image: Image.Image, questions: Sequence[str]) -> list[str]:
        """The likeliest answer to each question, nothing drawn at random; it does not depend on the other questions.

        Questions of one length go together, because BLIP's decoder attends to padding.
        """
        places: dict[int, list[int]] = {}
        for place, ids in enumerate(self._processor.tokenizer(list(questions))["input_ids"]):
            places.setdefault(len(ids), []).append(place)
        answers = [""] * len(questions)
        for alike in places.values():
            for start in range(0, len(alike), _TOGETHER):
                chunk = alike[start : start + _TOGETHER]
                texts = self._answer(image.convert("RGB"), [questions[place] for place in chunk])
                for place, one in zip(chunk, texts, strict=True):
                    answers[place] = one
        return answers

    def is_cut(self, questions: Sequence[str]) -> list[bool]:
        """Which questions are longer than the model takes and lose their end."""
        tokenizer = self._processor.tokenizer
        return [len(ids) > tokenizer.model_max_length for ids in tokenizer(list(questions))["input_ids"]]

    def _answer(self, image: Image.Image, questions: list[str]) -> list[str]:
        batch = self._processor(
            images=[image] * len(questions), text=questions, truncation=True, padding=True, return_tensors="pt"
        ).to(self._model.device)
        if self._model.can_generate():
            written = self._model.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=_ANSWER_TOKENS)
            return [text.strip() for text in self._processor.batch_decode(written, skip_special_tokens=True)]
        logits = finite(self._model(**batch).logits, role=_ROLE)
        return [self._model.config.id2label[best] for best in logits.argmax(dim=-1).tolist()]


class ChatVqa:
    """An image-text-to-text model with a chat template, asked one question at a time.

    Behind each question it reads "Answer yes or no."

    Raises:
        ConfigError: it cannot be read, or is no such model.
        FetchError: a source cannot be had.
    """

    def __init__(self, source: str | Source, *, device: str = "cpu") -> None:
        self._model = ChatModel(source, role=_ROLE, device=device)
        self.image_processor = self._model.processor.image_processor

    def answer(self, image: Image.Image, questions: Sequence[str]) -> list[str]:
        """The likeliest answer to each question."""
        return [self._answer(image.convert("RGB"), question) for question in questions]

    def is_cut(self, questions: Sequence[str]) -> list[bool]:
        """None is."""
        return [False] * len(questions)

    def _answer(self, image: Image.Image, question: str) -> str:
        text = f"{question} Answer yes or no."
        content: list[dict[str, object]] = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        written, before = self._model.generate(content, max_new_tokens=_ANSWER_TOKENS)
        return str(self._model.processor.decode(written[0, before:], skip_special_tokens=True)).strip()
