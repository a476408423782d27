"""Emu3: a decoder of the Llama kind over one stream of text tokens and image codes.

Names are those of transformers' Emu3ForConditionalGeneration, so that `from_pretrained` reads what is saved;
generation, log-probs and caches are this package's. The image tokenizer is the codec's alone, as in the official
repositories.
Source: Emu3 (arXiv 2409.18869).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Emu3Config, Emu3ForCausalLM, Emu3TextConfig

from hermesflow.config.experiment import Config
from hermesflow.core.images import ImageForm
from hermesflow.models.emu3 import FAMILY
from hermesflow.models.emu3.prompting import TokenIds
from hermesflow.models.emu3.released import released_tokenizer
from hermesflow.models.emu3.vq import INSIDE, vq_config
from hermesflow.models.kernels import Layout, linear, quicken
from hermesflow.models.logps import token_logps
from hermesflow.models.next_token.base import ATTENTION, NextTokenModel, Wording, decoder_sizes
from hermesflow.models.text_tokenizers import Tokenizer, text_tokenizer


class Emu3(NextTokenModel):
    """Emu3; implements `backbone.UnifiedModel`. An image is (T,) codes, H rows of W, read and generated alike.

    Args:
        config: sizes, as transformers has them.
        tokenizer: the text tokenizer.
        ids: where Emu3's tokens are.
        wording: of prompts.
        grid: H and W.
    """

    family = FAMILY

    def __init__(
        self, config: Emu3Config, tokenizer: Tokenizer, ids: TokenIds, wording: Wording, grid: tuple[int, int]
    ) -> None:
        super().__init__(wording)
        self.config = cast(Any, config)  # its parts may be dictionaries, as transformers declares them
        self.tokenizer, self.ids, self.grid = tokenizer, ids, grid
        self.end_token, self.text_start, self.image_start = ids.eos, ids.eoi, ids.img
        self.num_image_tokens = grid[0] * grid[1]
        self.seen = self.generated = ImageForm("codes", (self.num_image_tokens,), "uint16")
        self.config.text_config._attn_implementation = ATTENTION
        whole = Emu3ForCausalLM(self.config.text_config)
        self.model, self.lm_head = nn.ModuleDict({"text_model": whole.model}), whole.lm_head
        quicken(self)
        self._code_layout, self.no_text = Layout(), ids.no_text

    @staticmethod
    def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Released tensors under the names of this model: official ones, or transformers' but the image tokenizer's."""
        official = {name.removeprefix("text_model."): x for name, x in tensors.items() if not INSIDE.match(name)}
        return {re.sub(r"^model\.(?!text_model\.)", "model.text_model.", name): x for name, x in official.items()}

    @property
    def decoder(self) -> nn.Module:
        """The decoder of texts and images."""
        return self.model["text_model"]

    @property
    def forced(self) -> Mapping[int, int]:
        """Rows end in a token of their own."""
        rows, columns = self.grid
        return {row * columns: self.ids.eol for row in range(1, rows)}

    @property
    def _size(self) -> list[int]:
        """Tokens of "H*W"."""
        return self.tokenizer.encode(["{}*{}".format(*self.grid)])[0]

    @property
    def _before_image(self) -> list[int]:
        return self.ids.drawing_prompt(self.tokenizer.encode([self.wording.text_before_image])[0], self._size)

    @property
    def image_prefix(self) -> int:
        """Columns in front of a text."""
        return len(self._before_image) + self.num_image_tokens + self.grid[0] + 2

    def image_states(self, seen: Tensor) -> Tensor:
        """Input states of all that stands in front of texts about images (I, T), (I, P, D)."""
        rows = self.ids.image_rows(seen.to(self.device).long(), self.grid[1])
        before = torch.tensor(self._before_image, device=self.device)
        return self.embed(torch.cat([before.expand(len(rows), -1), rows], dim=1))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Input states (..., D) of codes."""
        return self.embed(codes + self.ids.first_code)

    def code_states(self, hidden: Tensor) -> Tensor:
        """Last hidden states as they are."""
        return hidden

    def code_logits(self, states: Tensor) -> Tensor:
        """Logits over the codes alone, (..., codebook_size): all else is forced."""
        codes = slice(self.ids.first_code, self.ids.first_code + self.ids.codes)
        return linear(states, self.lm_head.weight[codes], None, self._code_layout)

    def code_logps(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Log-probabilities of codes (S,) among all tokens, as they were trained, at last hidden states (S, D)."""
        return token_logps(hidden, codes + self.ids.first_code, self.lm_head)

    def generation_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Prompts that images are drawn from."""
        size = self._size
        return [self.ids.drawing_prompt(text, size) for text in texts]

    def unconditional_prompts(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The negative prompt for all."""
        return self.generation_prompts(self.tokenizer.encode([self.wording.negative_prompt])) * len(texts)

    def empty_prompt(self, noise: None, row: int) -> list[int]:
        """No text at all."""
        return self.ids.drawing_prompt([], self._size)

    def training_noise(self, rows: int, generator: torch.Generator) -> None:
        """None: nothing is hidden."""

    def settings(self) -> dict[str, Any]:
        """The config of transformers, and beside it what this package needs."""
        plain = super().settings()
        return {**plain, "hermesflow": {**plain["hermesflow"], "grid": list(self.grid)}}


def build(config: Config) -> Emu3:
    """The model that a config asks for."""
    settings = config.language_model
    tokenizer = text_tokenizer(settings.text_tokenizer, reader=released_tokenizer)
    ids = TokenIds.of(tokenizer, codes=config.codebook_size, vocabulary=settings.vocabulary)
    text = Emu3TextConfig(
        **decoder_sizes(settings, ids),
        num_key_value_heads=settings.key_value_heads or settings.heads,
        pad_token_id=ids.pad,
        attention_dropout=0.0,
        initializer_range=settings.initializer_range or settings.hidden_size**-0.5,
    )
    plain = Emu3Config(
        text_config=text, vq_config=vq_config(config.image_tokenizer), vocabulary_map=ids.vocabulary_map()
    )
    side = round(config.num_image_tokens**0.5)
    return Emu3(plain, tokenizer, ids, Wording.of(settings), (side, side))


def rebuild(settings: Mapping[str, Any], tokenizer: Tokenizer) -> Emu3:
    """The model that `Emu3.settings` describes."""
    extra, sizes = settings["hermesflow"], {key: value for key, value in settings.items() if key != "hermesflow"}
    rows, columns = extra["grid"]
    parts = tokenizer, TokenIds(**extra["ids"]), Wording(**extra["wording"])
    return Emu3(Emu3Config.from_dict(sizes), *parts, (rows, columns))
