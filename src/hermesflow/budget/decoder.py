"""Arithmetic of Show-o's decoder: parameters, FLOPs and bytes of what the stages let it do.

A token through a layer costs 8 D^2 (query, key, value, output) + 4 D I (MLP) FLOPs, and 4 D per position it sees (two
matrix products); a place that is scored 2 D V. torch's FlopCounterMode counts the same (`tests/test_budget_flops.py`).
Where rows are as long as they are told, the figures are exact; callers that tell maxima get upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from hermesflow.budget.machines import Pass
from hermesflow.config import Config
from hermesflow.data.questions import vocabulary
from hermesflow.models.prompting import TokenIds
from hermesflow.sections import Lora

PHI_WORDS = 50_295
"""Text vocabulary of the released Show-o (phi-1.5's), taken for every tokenizer but the micro world's."""
UNCONDITIONAL = 3
"""Tokens of the empty prompt: t2i, start and end of text."""
_WORLD_SPECIALS = 2  # of `prompting.word_tokenizer`


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Sizes of a Show-o model."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocabulary: int
    codes: int
    image_tokens: int

    @staticmethod
    def of(config: Config) -> Decoder:
        """The model of a config."""
        own = config.language_model
        words = len(vocabulary()) + _WORLD_SPECIALS if own.text_tokenizer == "microworld" else PHI_WORDS
        return Decoder(
            hidden_size=own.hidden_size,
            layers=own.layers,
            heads=own.heads,
            intermediate_size=own.intermediate_size,
            vocabulary=TokenIds(words, config.codebook_size, 0).vocab_size,
            codes=config.codebook_size,
            image_tokens=config.num_image_tokens,
        )

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
    def image_prefix(self) -> int:
        """Columns before a text: task token, boundaries, image."""
        return self.image_tokens + 3

    @property
    def image_block(self) -> int:
        """Columns of an image that is drawn, with its boundaries."""
        return self.image_tokens + 2

    @property
    def position_elements(self) -> int:
        """Elements of the keys and values of one position in all layers."""
        return 2 * self.hidden_size * self.layers

    def adapter_parameters(self, lora: Lora) -> int:
        """Parameters of low-rank adapters."""
        widths = {"fc1": self.hidden_size + self.intermediate_size, "fc2": self.hidden_size + self.intermediate_size}
        return self.layers * sum(lora.rank * widths.get(name, 2 * self.hidden_size) for name in lora.targets)

    def flops(self, *, rows: float, length: float, seen: float) -> Flops:
        """Forward FLOPs of the layers on blocks of `length` tokens that attend to `seen` positions."""
        tokens = rows * length * self.layers
        return Flops(linear=2 * self.layer_weights * tokens, attention=4 * self.hidden_size * seen * tokens)

    def head(self, places: float, outputs: int) -> float:
        """FLOPs of logits."""
        return 2 * self.hidden_size * outputs * places

    def forward(self, *, rows: float, length: float, seen: float, size: int, times: float = 1) -> Pass:
        """A pass through the layers.

        Args:
            rows: blocks that run together.
            length: tokens of each.
            seen: positions that each token attends to, its own block included.
            size: bytes of a number.
            times: equal passes.
        """
        read = size * (self.layers * self.layer_weights + rows * seen * self.position_elements)
        flops = self.flops(rows=rows, length=length, seen=seen).forward
        return Pass(times, flops, read, tokens=rows * length)

    def logits(self, *, places: float, outputs: int, size: int, times: float = 1) -> Pass:
        """Logits of some places."""
        read = size * self.hidden_size * outputs
        return Pass(times, self.head(places, outputs), read)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Forward FLOPs by what their gradient costs."""

    linear: float = 0
    attention: float = 0
    head: float = 0
    idle_linear: float = 0
    """Part of `linear` whose output no gradient comes back to."""
    idle_attention: float = 0
    """Such part of `attention`."""
    skipped: float = 0
    """Part of `linear` that is not computed again where activations are not kept."""

    @property
    def forward(self) -> float:
        """Without gradients."""
        return self.linear + self.attention + self.head

    def trained(self, *, recomputed: bool, frozen: bool) -> float:
        """Forward and backward.

        A gradient takes two products for each of the forward pass, one of them for the weights; frozen weights take
        one.

        Args:
            recomputed: layers run a second time in the backward pass, all but their last product.
            frozen: the decoder's own weights have no gradient (low-rank adapters).
        """
        weights = 1 if frozen else 2
        backward = weights * (self.linear - self.idle_linear + self.head)
        backward += 2 * (self.attention - self.idle_attention)
        again = self.linear + self.attention - self.skipped if recomputed else 0
        return self.forward + backward + again


def image_decoding(
    decoder: Decoder, *, rows: int, prompts: int, prompt_length: int, steps: int, guided: bool, size: int
) -> list[Pass]:
    """`sampling.sample_images`: prompts once, the first step once per different prompt, then all rows.

    Args:
        decoder: the model.
        rows: images drawn together.
        prompts: different captions among them.
        prompt_length: columns of the prompts, padding included.
        steps: MaskGIT steps.
        guided: with an unconditional side.
        size: bytes of a number.
    """
    block, found = decoder.image_block, []
    for different, length in [(prompts, prompt_length), *([(1, UNCONDITIONAL)] if guided else [])]:
        found += [
            decoder.forward(rows=different, length=length, seen=length, size=size),
            decoder.forward(rows=different, length=block, seen=length + block, size=size),
            decoder.forward(rows=rows, length=block, seen=length + block, size=size, times=steps - 1),
        ]
    places = rows * decoder.image_tokens
    return [*found, decoder.logits(places=places, outputs=decoder.codes, size=size, times=steps)]


def text_decoding(
    decoder: Decoder, *, images: int, prompts: int, prompt_length: int, rows: int, tokens: int, size: int
) -> list[Pass]:
    """`sampling.sample_texts`: images once, prompts once, then token by token.

    Args:
        decoder: the model.
        images: different images.
        prompts: different (image, prompt).
        prompt_length: columns of the prompts, padding included.
        rows: texts written together; none of them ends early.
        tokens: tokens of each.
        size: bytes of a number.
    """
    prefix = decoder.image_prefix
    before, last = prefix + prompt_length, tokens - 1  # the first token needs no step
    return [
        decoder.forward(rows=images, length=prefix, seen=prefix, size=size),
        decoder.forward(rows=prompts, length=prompt_length, seen=before, size=size),
        decoder.logits(places=prompts, outputs=decoder.vocabulary, size=size),
        decoder.forward(rows=rows, length=1, seen=before + (last + 1) / 2, size=size, times=last),
        decoder.logits(places=rows, outputs=decoder.vocabulary, size=size, times=last),
    ]


def text_scoring(decoder: Decoder, *, images: int, rows: int, length: int, scored: int) -> tuple[Flops, float]:
    """`ShowO.text_logps`: every image once, then the texts behind them.

    Of an image's last layer only keys and values are used, so its other products have no gradient.

    Returns:
        FLOPs, and tokens that run.
    """
    prefix = decoder.image_prefix
    first = decoder.flops(rows=images, length=prefix, seen=prefix)
    then = decoder.flops(rows=rows, length=length, seen=prefix + length)
    tokens = images * prefix + rows * length
    flops = Flops(
        linear=first.linear + then.linear,
        attention=first.attention + then.attention,
        head=decoder.head(rows * scored, decoder.vocabulary),
        idle_linear=4 * decoder.hidden_size * (decoder.hidden_size + decoder.intermediate_size) * images * prefix,
        idle_attention=first.attention / decoder.layers,
        skipped=_skipped(decoder, tokens),
    )
    return flops, tokens


def image_scoring(decoder: Decoder, *, rows: int, prompt_length: int, scored: float) -> tuple[Flops, float]:
    """`ShowO.image_logps`; returns FLOPs, and tokens that run."""
    length = prompt_length + decoder.image_block
    own = decoder.flops(rows=rows, length=length, seen=length)
    head, tokens = decoder.head(rows * scored, decoder.vocabulary), rows * length
    return Flops(linear=own.linear, attention=own.attention, head=head, skipped=_skipped(decoder, tokens)), tokens


def _skipped(decoder: Decoder, tokens: float) -> float:
    return 2 * decoder.hidden_size * decoder.intermediate_size * decoder.layers * tokens
