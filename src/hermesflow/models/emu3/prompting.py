"""From text and codes to rows of token ids, in the layouts of Emu3.

    reading: bos (text before the image) boi "H*W" <img> codes eol codes eol .. eof | eoi prompt completion eos
    drawing: bos text boi "H*W" | <img> codes eol codes eol .. codes

What stands before `|` is shared by all rows behind it. An image is H rows of W codes; its size is plain text.
Source: Emu3 (arXiv 2409.18869) section 3; baaivision/Emu3 (processing_emu3.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hermesflow.models.text_tokenizers import Tokenizer, token_ids

TOKENS = {
    "pad": "<|endoftext|>",
    "image": "<|extra_0|>",
    "eol": "<|extra_200|>",
    "eof": "<|extra_201|>",
    "bos": "<|extra_203|>",
    "img": "<|image token|>",
    "boi": "<|image start|>",
    "eoi": "<|image end|>",
    "first_code": "<|visual token 000000|>",
}
"""What the official text tokenizers call Emu3's tokens; `image` is transformers' placeholder."""
PLACEHOLDER = "<image>"
"""What it is called in tokenizers that transformers has converted."""


@dataclass(frozen=True)
class TokenIds:
    """Ids of Emu3's tokens, and rows of the embedding."""

    pad: int
    image: int
    eol: int
    eof: int
    bos: int
    img: int
    boi: int
    eoi: int
    first_code: int
    """Of code 0; all codes are there together."""
    eos: int
    codes: int
    vocabulary: int

    @staticmethod
    def of(tokenizer: Tokenizer, *, codes: int, vocabulary: int | None) -> TokenIds:
        """Those of a text tokenizer; tokens that it does not have come after all of its own, codes last.

        Args:
            tokenizer: of texts; its boundary token ends a text.
            codes: number of codes.
            vocabulary: rows of the embedding; None is as many as there are tokens.
        """
        converted = tokenizer.id_of(PLACEHOLDER) is not None
        ids, size = token_ids(tokenizer, {**TOKENS, "image": PLACEHOLDER} if converted else TOKENS)
        size = max(size, ids["first_code"] + codes)
        return TokenIds(**ids, eos=tokenizer.boundary, codes=codes, vocabulary=max(vocabulary or 0, size))

    @property
    def no_text(self) -> list[int]:
        """Tokens that no text has: codes, and what stands around them."""
        around = (self.image, self.eol, self.eof, self.bos, self.img, self.boi, self.eoi)
        return [*around, *range(self.first_code, self.first_code + self.codes)]

    def drawing_prompt(self, text: Sequence[int], size: Sequence[int]) -> list[int]:
        """`bos text boi "H*W"`, behind which an image is drawn."""
        return [self.bos, *text, self.boi, *size]

    def image_rows(self, codes: Tensor, columns: int) -> Tensor:
        """`<img> codes eol .. codes eol eof`, (I, T + rows + 2) int64 of codes (I, T), in rows of so many columns."""
        rows = (codes + self.first_code).unflatten(1, (-1, columns))
        ended = torch.nn.functional.pad(rows, (0, 1), value=self.eol).flatten(1)
        start, end = (ended.new_full((len(ended), 1), token) for token in (self.img, self.eof))
        return torch.cat([start, ended, end], dim=1)

    def vocabulary_map(self) -> dict[str, int]:
        """What transformers calls the tokens that it looks for."""
        codes = {f"<|visual token {code:06d}|>": self.first_code + code for code in range(self.codes)}
        return {"<image>": self.image, TOKENS["eol"]: self.eol, **codes}
