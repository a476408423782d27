"""Arithmetic of decoders: parameters, FLOPs and bytes of what the stages let them do.

A token through a layer costs 8 D^2 (query, key, value, output) + 4 D I (MLP) FLOPs, and 4 D per position it sees (two
matrix products); a place that is scored 2 D V. torch's FlopCounterMode counts the same (test_budget_flops.py).
Sequences are packed: images once, each different prompt once, end tokens not at all; only attention sees padding, up to
the longest of what runs together. Figures are exact where texts are as long as they are told; maxima give upper bounds.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Lora, Source
from hermesflow.data.worlds.language import WORLDS, lexicon_of
from hermesflow.data.worlds.questions import vocabulary
from hermesflow.models import capacity
from hermesflow.models.logps import LOGITS
from hermesflow.models.machines import FLOAT, Pass
from hermesflow.models.text_tokenizers import TRAINED, TRAINED_SIZE


def common_sizes(config: Config) -> dict[str, Any]:
    """Sizes of a `Decoder` that the config of every family names."""
    names = ("hidden_size", "layers", "heads", "intermediate_size", "max_text_tokens")
    return {name: getattr(config.language_model, name) for name in names} | {
        "codes": config.codebook_size,
        "image_tokens": config.num_image_tokens,
        "on_cpu": config.runtime.device == "cpu",
    }


def word_rows(source: str | Source, *, released: int, tokens: int) -> int:
    """Rows of the word embedding, codes not counted.

    Args:
        source: text tokenizer of the config.
        released: rows of the released models, taken for every tokenizer whose size is not known.
        tokens: tokens of the family that others do not have.
    """
    if source == TRAINED:
        return TRAINED_SIZE + tokens
    if isinstance(source, str) and source in WORLDS:
        return len(vocabulary(lexicon_of(source))) + 2 + tokens
    return released


@dataclass(frozen=True, kw_only=True)
class Decoder(ABC):
    """Sizes of a model; a family says what its layers and its sequences are."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    vocabulary: int
    codes: int
    image_tokens: int
    max_text_tokens: int
    on_cpu: bool

    @property
    @abstractmethod
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """All of them."""

    @property
    @abstractmethod
    def working_states(self) -> int:
        """Elements of the MLP on its way, of a token."""

    @abstractmethod
    def saved_states(self, *, again: bool) -> int:
        """Elements that the MLP keeps of a token for its gradient; what can be may be computed `again` instead."""

    @property
    @abstractmethod
    def image_prefix(self) -> int:
        """Columns before a text."""

    @property
    @abstractmethod
    def image_block(self) -> int:
        """Columns of an image that is scored."""

    @abstractmethod
    def adapter_parameters(self, lora: Lora) -> int:
        """Parameters of low-rank adapters."""

    @property
    def tower_parameters(self) -> int:
        """Of what only images that are read go through."""
        return 0

    @property
    def tower_flops(self) -> float:
        """Forward FLOPs of one image through all of that."""
        return 0

    @property
    def position_elements(self) -> int:
        """Elements of the keys and values of one position in all layers."""
        return 2 * self.hidden_size * self.layers

    def texts_together(self, *, images: int, rows: int, size: int) -> int:
        """Images that run together with the texts about them, as `grouping` has it."""
        return self.together(images, self.image_prefix + rows / images * self.max_text_tokens, size)

    def images_together(self, *, prompts: int, rows: int, size: int) -> int:
        """Prompts that run together with the images behind them."""
        return self.together(prompts, self.max_text_tokens + 1 + rows / prompts * self.image_block, size)

    def together(self, count: int, length: float, size: int) -> int:
        """Sequences of this length that run together, of so many."""
        inner = self.intermediate_size
        tokens = capacity.tokens_together(intermediate_size=inner, element_size=size, on_cpu=self.on_cpu)
        return min(max(int(tokens / length), 1), count)

    def flops(self, *, rows: float, length: float, seen: float) -> Flops:
        """Forward FLOPs of the layers on blocks of `length` tokens that attend to `seen` positions."""
        tokens = rows * length * self.layers
        return Flops(linear=2 * self.layer_weights * tokens, attention=4 * self.hidden_size * seen * tokens)

    def head(self, places: float, outputs: int) -> float:
        """FLOPs of logits."""
        return 2 * self.hidden_size * outputs * places

    def forward(
        self, *, rows: float, length: float, seen: float, size: int, times: float = 1, shared: float = 0
    ) -> Pass:
        """A pass through the layers.

        Args:
            rows: blocks that run together.
            length: tokens of each.
            seen: positions that each token attends to, its own block included.
            size: bytes of a number.
            times: equal passes.
            shared: positions that are read once for several blocks, instead of once for each.
        """
        read = size * (self.layers * self.layer_weights + (rows * seen - shared) * self.position_elements)
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
    skipped: float = 0
    """Part of `linear` that is not computed again where activations are not kept."""
    head_again: float = 0
    """Part of `head` that is computed again: logits that are not there together."""

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
        backward = weights * (self.linear + self.head) + 2 * self.attention
        again = self.linear + self.attention - self.skipped if recomputed else 0
        return self.forward + backward + again + self.head_again


class Scored(NamedTuple):
    """A call of `text_logps` or `image_logps`."""

    flops: Flops
    tokens: float
    """That run."""
    calls: int
    """Of the decoder."""


def text_decoding(
    decoder: Decoder, *, images: int, prompts: int, prompt_length: int, rows: int, tokens: int, size: int
) -> list[Pass]:
    """`sampling.sample_texts`: images and prompts once, then token by token; an image is read once for its rows.

    Args:
        decoder: the model.
        images: different images.
        prompts: different (image, prompt).
        prompt_length: columns of the longest.
        rows: texts written together, as many of each image; none of them ends early.
        tokens: tokens of each.
        size: bytes of a number.
    """
    prefix, last = decoder.image_prefix, tokens - 1  # the first token needs no step
    context = prompt_length + (last + 1) / 2
    texts = texts_behind_images(decoder, images=images, rows=rows, length=prompts * prompt_length, scored=0, size=size)
    read = size * decoder.layers * decoder.layer_weights
    return [
        Pass(texts.calls, texts.flops.forward / texts.calls, read, texts.tokens / texts.calls),
        decoder.forward(
            rows=rows, length=1, seen=prefix + context, size=size, times=last, shared=(rows - images) * prefix
        ),
        decoder.logits(places=rows, outputs=decoder.vocabulary, size=size, times=tokens),
    ]


def text_scoring(
    decoder: Decoder, *, images: int, prompts: int, prompt_length: int, rows: int, scored: int, size: int = FLOAT
) -> Scored:
    """`text_logps`: images and prompts once, completions behind them without their end tokens.

    Args:
        decoder: the model.
        images: different images.
        prompts: different (image, prompt).
        prompt_length: columns of the longest.
        rows: completions.
        scored: places of each: one more than the tokens that run.
        size: bytes of a number of the weights.
    """
    length = prompts * prompt_length + rows * (scored - 1)
    return texts_behind_images(decoder, images=images, rows=rows, length=length, scored=rows * scored, size=size)


def texts_behind_images(decoder: Decoder, *, images: int, rows: int, length: int, scored: int, size: int) -> Scored:
    """Images, and texts of `length` tokens in all behind them, as many behind each; `rows` texts are asked for."""
    prefix, each = decoder.image_prefix, length / images
    first = decoder.flops(rows=images, length=prefix, seen=prefix)
    then = decoder.flops(rows=images, length=each, seen=prefix + each)
    calls = math.ceil(images / decoder.texts_together(images=images, rows=rows, size=size))
    return _scored(decoder, first, then, tokens=images * prefix + length, scored=scored, calls=calls)


def image_scoring(
    decoder: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> Scored:
    """`image_logps`: prompts once, their images behind them; `scored` places of each."""
    block = decoder.image_block
    first = decoder.flops(rows=prompts, length=prompt_length, seen=prompt_length)
    then = decoder.flops(rows=rows, length=block, seen=prompt_length + block)
    calls = math.ceil(prompts / decoder.images_together(prompts=prompts, rows=rows, size=size))
    tokens = prompts * prompt_length + rows * block
    return _scored(decoder, first, then, tokens=tokens, scored=rows * scored, calls=calls)


def _scored(decoder: Decoder, first: Flops, then: Flops, *, tokens: float, scored: float, calls: int) -> Scored:
    head = decoder.head(scored, decoder.vocabulary)
    flops = Flops(
        linear=first.linear + then.linear,
        attention=first.attention + then.attention,
        head=head,
        skipped=2 * decoder.hidden_size * decoder.intermediate_size * decoder.layers * tokens,
        head_again=head if scored / calls > max(LOGITS // decoder.vocabulary, 1) else 0,
    )
    return Scored(flops, tokens, calls)
