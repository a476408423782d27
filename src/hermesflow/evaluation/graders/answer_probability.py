"""How likely a local image-text-to-text model of transformers finds some answers to a question about an image.

Any instruct model that transformers reads will do, but figures by different ones cannot be compared, so its name
belongs beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from hermesflow.config.sections import Source
from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.graders.pretrained import ChatModel

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
        self._model = ChatModel(source, role=_ROLE, device=device)
        self.image_processor = self._model.processor.image_processor

    def probability(self, image: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Probability that the answer begins with the first token of one of some texts.

        Raises:
            ConfigError: the tokenizer puts a blank before them (`first_tokens`).
        """
        tokens = first_tokens(self._model.processor.tokenizer, answers)
        content: list[dict[str, Any]] = [
            {"type": "image", "image": image.convert("RGB")},
            {"type": "text", "text": question},
        ]
        options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        written, _ = self._model.generate(content, **options)
        return min(float(written.logits[0][0].float().softmax(dim=-1)[tokens].sum()), 1.0)


def first_tokens(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The tokens that some texts begin with, each once.

    Args:
        tokenizer: of transformers.
        texts: not empty.

    Raises:
        ConfigError: a text without a blank before it begins with a token that is one: all digits would be the same.
    """
    tokens = {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in texts}
    for text, token in tokens.items():
        if not text[0].isspace() and not tokenizer.decode([token]).strip():
            raise ConfigError(
                f"{_ROLE}: its tokenizer begins {text!r} with a blank, so the first token does not tell answers apart. "
                "Name a model with a byte-level tokenizer, Qwen3-VL for example."
            )
    return sorted(set(tokens.values()))
