"""How long the texts of a config may be: what is not known before a run is taken at its maximum."""

from __future__ import annotations

from dataclasses import dataclass

from hermesflow.config.experiment import Config
from hermesflow.data.worlds.language import WORLDS
from hermesflow.data.worlds.questions import MAX_QUESTIONS

QUESTIONS = MAX_QUESTIONS
"""Questions a pair is taken to have (`--questions`); the small worlds make at most so many."""
CHOICES = 4
"""Choices a question is taken to have; the small worlds give at most so many."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Maximum lengths of sequences in tokens, boundary tokens included."""

    drawing: int
    """Prompt that an image is generated from."""
    describing: int
    """Prompt that a caption is generated from, without the image."""
    asking: int
    """Prompt that an answer is generated from, without the image."""
    text: int
    """Prompt and completion together."""
    caption: int
    """Scored tokens of a caption."""
    answer: int
    """Scored tokens of an answer."""
    questions: int
    """Number of questions about an image."""

    @staticmethod
    def of(config: Config, *, questions: int = QUESTIONS) -> Lengths:
        """The maxima of a config: texts fill `max_text_tokens`, no decoded text ends early."""
        settings = config.language_model
        prompt, most = settings.caption_prompt, settings.max_text_tokens
        words = prompt.split() if settings.text_tokenizer in WORLDS else prompt.encode()
        describing = 1 + len(words)  # a byte-level tokenizer has at most a token per byte
        return Lengths(
            drawing=most + 1,
            describing=describing,
            asking=most,
            text=most,
            caption=max(most - describing, 1),
            answer=min(config.scoring.max_answer_tokens + 1, most - 1),
            questions=questions,
        )
