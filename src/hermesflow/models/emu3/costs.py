"""Arithmetic of Emu3: what a batch of each kind of work costs; `budget` asks for these names.

Rows of an image end in a token of their own, which is run but never scored. Codes are scored among all tokens, and
written among the codes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hermesflow.config.experiment import Config
from hermesflow.data.worlds.language import WORLDS
from hermesflow.models.costs import next_token, pixels
from hermesflow.models.costs.decoder import common_sizes, text_scoring, word_rows
from hermesflow.models.costs.memory import scoring_peak, text_calls
from hermesflow.models.costs.next_token import expected_masked, image_calls, image_decoding, image_scoring
from hermesflow.models.emu3.prompting import TOKENS
from hermesflow.models.emu3.vq import ImageVQ

__all__ = [
    "Batches",
    "Decoder",
    "expected_masked",
    "image_calls",
    "image_decoding",
    "image_scoring",
    "saved_bytes",
    "scoring_peak",
    "text_calls",
    "text_scoring",
]
WORDS = 151_854
"""Rows of the released word embedding without codes, taken for every text tokenizer but those of the small worlds."""


@dataclass(frozen=True, kw_only=True)
class Decoder(next_token.Decoder):
    """Sizes of an Emu3 model."""

    key_value_heads: int
    rows: int
    """Of codes."""
    before: int
    """Columns before an image that is read and the token in front of it."""
    negative: int
    """Columns of the unconditional prompt."""

    @staticmethod
    def of(config: Config) -> Decoder:
        """The model of a config."""
        settings, source = config.language_model, config.language_model.text_tokenizer
        small = isinstance(source, str) and source in WORLDS
        words = word_rows(source, released=WORDS, tokens=len(TOKENS) - 2)  # one ends a text, one is the first code
        before, negative = settings.text_before_image or "", settings.negative_prompt or ""
        rows = round(config.num_image_tokens**0.5)
        size = 1 if small else len(f"{rows}*{rows}")
        return Decoder(
            **common_sizes(config),
            key_value_heads=settings.key_value_heads or settings.heads,
            vocabulary=settings.vocabulary or words + config.codebook_size,
            rows=rows,
            before=2 + size + len(before.split() if small else before.encode()),
            negative=2 + size + len(negative.split() if small else negative.encode()),
        )

    @property
    def kv_width(self) -> int:
        """Width of the keys of a token."""
        return self.hidden_size // self.heads * self.key_value_heads

    @property
    def parameters(self) -> int:
        """Those of the decoder: the image tokenizer is the codec's."""
        return self.text_parameters

    @property
    def image_prefix(self) -> int:
        """Columns before a text: the token in front of the first code, the codes, one behind each row, the last."""
        return self.before + self.image_tokens + self.rows + 2

    @property
    def image_block(self) -> int:
        """Columns of an image that is scored: all codes but the last, a token in front, and one between rows."""
        return self.image_tokens + self.rows - 1

    def unconditional(self, length: int) -> int:
        """Columns of an unconditional prompt."""
        return self.negative

    @property
    def code_outputs(self) -> tuple[int, ...]:
        """The codes alone."""
        return (self.codes,)

    @property
    def scored_outputs(self) -> tuple[int, ...]:
        """All tokens."""
        return (self.vocabulary,)


class Batches(next_token.Batches):
    """Batches of a config."""

    decoder: Decoder
    network = ImageVQ


saved_bytes = partial(pixels.saved_bytes, ImageVQ)
