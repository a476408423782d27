"""How likely a local image-text-to-text model of transformers finds some answers to a question about an image.

GenEval 2's own model is Qwen3-VL-8B-Instruct; any instruct model that transformers reads will do, but figures by
different ones cannot be compared, so its name belongs beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hermesflow import hub
from hermesflow.benchmarks.pretrained import read_pretrained, read_processor
from hermesflow.errors import ConfigError
from hermesflow.sections import Source

_ROLE = "the VQA model"


class TransformersAnswerProbability:
    """An `AnswerProbability`: the chances of the first token, after image and question in the model's chat template.

    The model has the number type it was saved in. Nothing is drawn at random, and what a generation config says of
    penalties and temperatures does not count.

    Raises:
        ConfigError: it cannot be read, or has no chat template.
        FetchError: a source cannot be had.
    """

    def __init__(self, source: str | Source, *, device: str = "cpu") -> None:
        folder = str(hub.fetch(source)) if isinstance(source, Source) else source  # once: checksums of some 17 GB
        kind = "AutoModelForImageTextToText"
        model = read_pretrained(kind, folder, role=_ROLE, use_safetensors=True, dtype="auto")
        self._processor = read_processor(model, folder, role=_ROLE)
        if not self._processor.chat_template:
            raise ConfigError(f"{folder}: {_ROLE} has no chat template. Name an instruct model.")
        self._model: Any = model.to(device).eval()

    @torch.inference_mode()
    def probability(self, image: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Probability that the answer begins with the first token of one of some texts.

        Raises:
            ConfigError: the tokenizer puts a blank before them (`first_tokens`).
        """
        tokens = first_tokens(self._processor.tokenizer, answers)
        content = [{"type": "image", "image": image.convert("RGB")}, {"type": "text", "text": question}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        written = self._model.generate(
            **inputs, do_sample=False, num_beams=1, max_new_tokens=1, output_logits=True, return_dict_in_generate=True
        )
        return min(float(written.logits[0][0].float().softmax(dim=-1)[tokens].sum()), 1.0)


def first_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The tokens that some texts begin with, each once.

    Args:
        tokenizer: of transformers.
        texts: not empty.

    Raises:
        ConfigError: a text without a blank before it begins with a token that is one: all digits would be the same.
    """
    found = {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in texts}
    for text, token in found.items():
        if not text[0].isspace() and not tokenizer.decode([token]).strip():
            raise ConfigError(
                f"{_ROLE}: its tokenizer begins {text!r} with a blank, so the first token does not tell answers apart. "
                "Name a model with a byte-level tokenizer, Qwen3-VL for example."
            )
    return sorted(set(found.values()))
