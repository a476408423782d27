"""Arithmetic of Show-o's decoder, and of MaskGIT."""

from __future__ import annotations

import math

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Lora
from hermesflow.models.costs import decoder
from hermesflow.models.machines import Pass
from hermesflow.models.showo.costs.masked import masked_counts
from hermesflow.models.showo.prompting import TokenIds

PHI_WORDS = 50_295
"""Text vocabulary of the released Show-o (phi-1.5's), taken for every tokenizer but those of the small worlds."""
UNCONDITIONAL = 3
"""Tokens of the empty prompt: t2i, start and end of text."""


class Decoder(decoder.Decoder):
    """Sizes of a Show-o model."""

    @staticmethod
    def of(config: Config) -> Decoder:
        """The model of a config."""
        words = decoder.word_rows(config.language_model.text_tokenizer, released=PHI_WORDS, tokens=0)
        vocabulary = TokenIds(words, config.codebook_size, 0).vocab_size
        return Decoder(**decoder.common_sizes(config), vocabulary=vocabulary)

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size

    @property
    def parameters(self) -> int:
        """All of them: two vocabulary matrices with one bias, layers with biases and three layer norms each."""
        biases = 5 * self.hidden_size + self.intermediate_size
        norms = 2 * self.hidden_size + 4 * self.hidden_size // self.heads
        layers = self.layers * (self.layer_weights + biases + norms)
        return self.vocabulary * (2 * self.hidden_size + 1) + layers + 2 * self.hidden_size

    @property
    def working_states(self) -> int:
        """Elements of the MLP on its way, of a token: before and after its activation."""
        return 2 * self.intermediate_size

    def saved_states(self, *, again: bool) -> int:
        """Elements that the MLP keeps of a token for its gradient; what can be may be computed `again` instead."""
        return (1 if again else 2) * self.intermediate_size

    @property
    def image_prefix(self) -> int:
        """Columns before a text: task token, boundaries, image."""
        return self.image_tokens + 3

    @property
    def image_block(self) -> int:
        """Columns of an image that is drawn, with its boundaries."""
        return self.image_tokens + 2

    def blocks_together(self, *, rows: int, size: int) -> int:
        """Images that are drawn and run together."""
        return self.together(rows, self.image_block, size)

    def adapter_parameters(self, lora: Lora) -> int:
        """Parameters of low-rank adapters."""
        widths = {"fc1": self.hidden_size + self.intermediate_size, "fc2": self.hidden_size + self.intermediate_size}
        return self.layers * sum(lora.rank * widths.get(name, 2 * self.hidden_size) for name in lora.targets)


def image_decoding(
    decoder: Decoder, *, rows: int, prompts: int, prompt_length: int, steps: int, guided: bool, size: int
) -> list[Pass]:
    """`sampling.sample_images`: prompts once, the first step once per different prompt, then all rows.

    Args:
        decoder: the model.
        rows: images drawn together.
        prompts: different captions among them.
        prompt_length: columns of the longest.
        steps: MaskGIT steps.
        guided: with an unconditional side.
        size: bytes of a number.
    """
    block, passes = decoder.image_block, []

    def blocks(count: int, length: int, times: int) -> Pass:
        calls = math.ceil(count / decoder.blocks_together(rows=count, size=size))
        return decoder.forward(rows=count / calls, length=block, seen=length + block, size=size, times=times * calls)

    for different, length in [(prompts, prompt_length), *([(1, UNCONDITIONAL)] if guided else [])]:
        passes += [
            decoder.forward(rows=different, length=length, seen=length, size=size),
            blocks(prompts, length, 1),
            blocks(rows, length, steps - 1),
        ]
    first, *masked = masked_counts(decoder.image_tokens, steps)
    places = [prompts * first, *(rows * count for count in masked)]
    return [*passes, *(decoder.logits(places=count, outputs=decoder.codes, size=size) for count in places)]
