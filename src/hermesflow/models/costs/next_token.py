"""Arithmetic of decoders of the Llama kind that write images token by token."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from hermesflow.config.sections import Lora, MaskSchedule, Training
from hermesflow.models import capacity
from hermesflow.models.backbone import refuse_masks
from hermesflow.models.costs import batches, decoder, memory
from hermesflow.models.costs.decoder import Scored, text_scoring
from hermesflow.models.machines import FLOAT, Pass


@dataclass(frozen=True, kw_only=True)
class Decoder(decoder.Decoder):
    """Sizes of a model; three matrices make up its MLP."""

    @property
    def kv_width(self) -> int:
        """Width of the keys of a token."""
        return self.hidden_size

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return 2 * self.hidden_size * (self.hidden_size + self.kv_width) + 3 * self.hidden_size * self.intermediate_size

    @property
    def position_elements(self) -> int:
        """Elements of the keys and values of one position in all layers."""
        return 2 * self.kv_width * self.layers

    @property
    def text_parameters(self) -> int:
        """Of the decoder, with two vocabulary matrices."""
        return (2 * self.vocabulary + 1) * self.hidden_size + self.layers * (self.layer_weights + 2 * self.hidden_size)

    @property
    def working_states(self) -> int:
        """Elements of the MLP on its way, of a token: gate, its activation, what it is multiplied with."""
        return 3 * self.intermediate_size

    def saved_states(self, *, again: bool) -> int:
        """Elements that the MLP keeps of a token for its gradient: these and their product; nothing is done again."""
        return 4 * self.intermediate_size

    def unconditional(self, length: int) -> int:
        """Columns of an unconditional prompt, where a conditional one has `length`."""
        return length

    @property
    def code_state(self) -> float:
        """FLOPs of the input state of one code, where it is more than a look-up."""
        return 0

    @property
    @abstractmethod
    def code_outputs(self) -> tuple[int, ...]:
        """Outputs of the products that lead to the logits of one code that is written."""

    @property
    @abstractmethod
    def scored_outputs(self) -> tuple[int, ...]:
        """The same of one code that is scored."""

    def adapter_parameters(self, lora: Lora) -> int:
        """Parameters of low-rank adapters."""
        hidden, wide = self.hidden_size, self.hidden_size + self.intermediate_size
        widths = {
            **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), wide),
            **dict.fromkeys(("k_proj", "v_proj"), hidden + self.kv_width),
        }
        return self.layers * sum(lora.rank * widths.get(name, 2 * hidden) for name in lora.targets)


class Batches(batches.Batches):
    """Batches of a config."""

    decoder: Decoder

    def generated(self, rows: int, prompts: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing images, in as many sessions as they have no room together."""
        settings, sizes, size = self.config.sampling.images, self.decoder, self.size
        room = capacity.SESSION_BYTES // (2 * sizes.position_elements * size * sizes.image_block)
        sessions = math.ceil(rows / max(room, 1))
        rows, prompts = math.ceil(rows / sessions), math.ceil(prompts / sessions)
        passes = image_decoding(
            sizes,
            rows=rows,
            prompts=prompts,
            prompt_length=self.lengths.drawing,
            guided=settings.guidance > 0,
            size=size,
        )
        sides = 2 if settings.guidance else 1
        places = sides * (rows * sizes.image_block + prompts * self.lengths.drawing)
        weights = size * sizes.parameters * (2 if sizes.on_cpu and size == FLOAT else 1)
        peak = weights + size * places * sizes.position_elements + 5 * FLOAT * rows * sizes.codes
        return [one.repeated(sessions) for one in passes], peak

    def pair_scoring(self, training: Training, pairs: int) -> tuple[Any, Scored]:
        """A micro batch of Pair-DPO, its texts and its images."""
        refuse_masks(training)
        sizes = self.decoder
        image_work = image_scoring(sizes, **self.images_of(pairs), scored=sizes.image_tokens)
        return text_scoring(sizes, **self.texts_of(pairs)), image_work


def image_scoring(
    sizes: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> Scored:
    """`image_logps`; arguments as `decoder.image_scoring`, where the prompt has the beginning of the image."""
    *before, outputs = sizes.scored_outputs
    work = decoder.image_scoring(
        replace(sizes, vocabulary=outputs),
        prompts=prompts,
        prompt_length=prompt_length - 1,
        rows=rows,
        scored=scored,
        size=size,
    )
    entering = rows * (sizes.image_tokens - 1) * sizes.code_state
    leaving = sizes.head(rows * scored, sum(before))
    return work._replace(flops=replace(work.flops, linear=work.flops.linear + entering + leaving))


def image_decoding(
    sizes: Decoder, *, rows: int, prompts: int, prompt_length: int, guided: bool, size: int
) -> list[Pass]:
    """`next_token.generate_images`: prompts once, then token by token; a prompt is read once for its rows.

    Args:
        sizes: the model.
        rows: images written together, as many of each prompt.
        prompts: different prompts among them, all as long as the longest.
        prompt_length: its columns, the beginning of the image included.
        guided: with unconditional rows.
        size: bytes of a number.
    """
    length, block = prompt_length - 1, sizes.image_block
    sides = [(prompts, length), (1, sizes.unconditional(length))][: 2 if guided else 1]
    every, (*before, outputs) = rows * len(sides), sizes.code_outputs
    states = Pass(sizes.image_tokens - 1, rows * sizes.code_state, size * sizes.code_state / 2)
    return [
        *(sizes.forward(rows=different, length=columns, seen=columns, size=size) for different, columns in sides),
        sizes.forward(
            rows=every,
            length=1,
            seen=sum(columns for _, columns in sides) / len(sides) + (block + 1) / 2,
            size=size,
            times=block,
            shared=sum((rows - different) * columns for different, columns in sides),
        ),
        states,
        *(sizes.logits(places=every, outputs=n, size=size, times=block) for n in before),
        sizes.logits(places=rows, outputs=outputs, size=size, times=sizes.image_tokens),
    ]


def image_calls(
    sizes: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> list[memory.Call]:
    """Calls of `image_logps`; arguments as `memory.image_calls`. Every prompt has a mask of its own."""
    calls = memory.image_calls(sizes, prompts=prompts, prompt_length=prompt_length, rows=rows, scored=scored, size=size)
    block = sizes.image_block
    each, mask = prompt_length + rows / prompts * block, block * (prompt_length + block)
    return [replace(call, masks=call.tokens / each * mask) for call in calls]


def expected_masked(schedule: MaskSchedule, *, tokens: int) -> float:
    """Image tokens that are scored of a row: all of them."""
    return tokens
