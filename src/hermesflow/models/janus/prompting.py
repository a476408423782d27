"""From text to rows of token ids, in the layouts of Janus.

    reading: bos (text before the image) boi <image> | eoi prompt completion eos
    drawing: bos text | boi codes

What stands before `|` is shared by all rows behind it. The unconditional prompt is as long as the conditional one: all
of its text is padding, which is attended to.
Source: Janus (arXiv 2410.13848) section 3; deepseek-ai/Janus (generation_inference.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.models.text_tokenizers import Tokenizer, token_ids

TOKENS = {
    "bos": "<｜begin▁of▁sentence｜>",
    "pad": "<｜▁pad▁｜>",
    "boi": "<begin_of_image>",
    "eoi": "<end_of_image>",
    "image": "<image_placeholder>",
}
"""What the released text tokenizers call Janus' tokens; their ids differ from model to model."""


@dataclass(frozen=True)
class TokenIds:
    """Ids of Janus' tokens, and rows of the embedding."""

    bos: int
    pad: int
    boi: int
    eoi: int
    image: int
    eos: int
    vocabulary: int

    @staticmethod
    def of(tokenizer: Tokenizer, *, vocabulary: int | None) -> TokenIds:
        """Those of a text tokenizer; tokens that it does not have come after all of its own.

        Args:
            tokenizer: of texts; its boundary token ends a text.
            vocabulary: rows of the embedding; None is as many as there are tokens.
        """
        ids, size = token_ids(tokenizer, TOKENS)
        return TokenIds(**ids, eos=tokenizer.boundary, vocabulary=max(vocabulary or 0, size))

    def drawing_prompt(self, text: Sequence[int]) -> list[int]:
        """`bos text`, behind which an image is drawn."""
        return [self.bos, *text]

    def unconditional_prompt(self, length: int) -> list[int]:
        """The same without the text, of which there are `length` tokens."""
        return [self.bos, *[self.pad] * length]
