"""Arithmetic of Janus: what a batch of each kind of work costs; `budget` asks for these names.

Sequences are packed as Show-o's, and so counted by the same code (`showo.costs`). What differs: a Llama layer has three
matrices in its MLP; an image is written place by place, both sides of the guidance in one batch; images that are read
go through the tower, which has no gradient in Pair-DPO; logits of images are over the codes alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAEAttnBlock

from hermesflow.config.experiment import Config
from hermesflow.config.sections import ImageTokenizer, Lora, MaskSchedule, Training, VqaMethod
from hermesflow.data.worlds.language import WORLDS, lexicon_of
from hermesflow.data.worlds.questions import vocabulary
from hermesflow.models import capacity
from hermesflow.models.backbone import refuse_masks
from hermesflow.models.janus.model import tower_of
from hermesflow.models.janus.prompting import TOKENS
from hermesflow.models.janus.vq import ImageVQ
from hermesflow.models.machines import FLOAT, Load, Pass
from hermesflow.models.showo.costs import batches, decoder, memory, pixels
from hermesflow.models.showo.costs.decoder import Scored
from hermesflow.models.showo.costs.memory import scoring_peak
from hermesflow.models.text_tokenizers import TRAINED, TRAINED_SIZE

__all__ = [
    "Batches",
    "Decoder",
    "expected_masked",
    "image_calls",
    "image_scoring",
    "saved_bytes",
    "scoring_peak",
    "text_calls",
    "text_scoring",
]
WORDS = 102_400
"""Rows of the word embedding of the released models, taken for every text tokenizer but the micro world's."""


class ScoredTexts(NamedTuple):
    """A call of `Janus.text_logps`; the rest as `decoder.Scored`."""

    flops: decoder.Flops
    tokens: float
    calls: int
    images: int
    """That run through the tower."""


@dataclass(frozen=True, kw_only=True)
class Decoder(decoder.Decoder):
    """Sizes of a Janus model."""

    before: int
    """Columns before an image, and none of its boundaries."""
    tower: tuple[int, int, int]
    """Width, layers and MLP width of the tower."""
    patch: int
    """Numbers of a patch of pixels."""
    code_width: int
    tokenizer_parameters: int

    @staticmethod
    def of(config: Config) -> Decoder:
        """The model of a config."""
        own, tower, tokenizer = config.language_model, tower_of(config.language_model), config.image_tokenizer
        source, words = own.text_tokenizer, WORDS
        small = isinstance(source, str) and source in WORLDS
        if isinstance(source, str) and source in (*WORLDS, TRAINED):
            words = (len(vocabulary(lexicon_of(source))) + 2 if small else TRAINED_SIZE) + len(TOKENS)
        before = own.text_before_image or ""
        return Decoder(
            hidden_size=own.hidden_size,
            layers=own.layers,
            heads=own.heads,
            intermediate_size=own.intermediate_size,
            vocabulary=own.vocabulary or words,
            codes=config.codebook_size,
            image_tokens=config.num_image_tokens,
            max_text_tokens=own.max_text_tokens,
            on_cpu=config.runtime.device == "cpu",
            before=1 + len(before.split() if small else before.encode()),
            tower=(tower.hidden_size, tower.layers, tower.intermediate_size),
            patch=3 * config.data.image_size**2 // config.num_image_tokens,
            code_width=tokenizer.code_width or 8,
            tokenizer_parameters=saved_bytes(tokenizer, config.data.image_size) // FLOAT,
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return 4 * self.hidden_size**2 + 3 * self.hidden_size * self.intermediate_size

    @property
    def parameters(self) -> int:
        """All of them: decoder with two vocabulary matrices, tower, what images enter and leave by, image tokenizer."""
        width, codes = self.hidden_size, self.codes
        text = 2 * self.vocabulary * width + self.layers * (self.layer_weights + 2 * width) + width
        drawing = codes * self.code_width + (self.code_width + 2 * width + 3) * width + (width + 1) * codes
        return text + self.tower_parameters + drawing + self.tokenizer_parameters

    @property
    def tower_parameters(self) -> int:
        """Of the tower, its patches and its positions, and what makes its features as wide as the decoder."""
        width, layers, inner = self.tower
        each = 4 * width**2 + 2 * width * inner + 9 * width + inner
        aligner = (width + self.hidden_size + 2) * self.hidden_size
        return (self.patch + self.image_tokens + 3) * width + layers * each + aligner

    @property
    def tower_flops(self) -> float:
        """Forward FLOPs of one image through all of that."""
        width, layers, inner = self.tower
        each = 2 * (4 * width**2 + 2 * width * inner) + 4 * width * self.image_tokens
        aligner = 2 * (width + self.hidden_size) * self.hidden_size
        return self.image_tokens * (2 * self.patch * width + layers * each + aligner)

    @property
    def working_states(self) -> int:
        """Elements of the MLP on its way, of a token: gate, its activation, what it is multiplied with."""
        return 3 * self.intermediate_size

    def kept_states(self, *, again: bool) -> int:
        """Elements that the MLP keeps of a token for its gradient: these and their product; nothing is done again."""
        return 4 * self.intermediate_size

    @property
    def image_prefix(self) -> int:
        """Columns before a text."""
        return self.before + 1 + self.image_tokens

    @property
    def image_block(self) -> int:
        """Columns of an image that is scored: its beginning, and all codes but the last."""
        return self.image_tokens

    @property
    def code_head(self) -> float:
        """FLOPs of logits over the codes at one place."""
        return self.head(1, self.hidden_size) + self.head(1, self.codes)

    @property
    def code_state(self) -> float:
        """FLOPs of the input state of one code."""
        return 2 * (self.code_width + self.hidden_size) * self.hidden_size

    def adapter_parameters(self, lora: Lora) -> int:
        """Parameters of low-rank adapters."""
        wide = self.hidden_size + self.intermediate_size
        widths = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), wide)
        return self.layers * sum(lora.rank * widths.get(name, 2 * self.hidden_size) for name in lora.targets)


class Batches(batches.Batches):
    """Batches of a config."""

    decoder: Decoder

    def pixels(self) -> tuple[pixels.Pixels, pixels.Pixels]:
        """Encoder and decoder of the image tokenizer."""
        return directions(self.config.image_tokenizer, self.config.data.image_size)

    def drawn(self, rows: int, prompts: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing images, in as many sessions as they have no room together."""
        own, sizes, size = self.config.sampling.images, self.decoder, self.size
        room = capacity.SESSION_BYTES // (2 * sizes.position_elements * size * sizes.image_tokens)
        sessions = math.ceil(rows / max(room, 1))
        rows, prompts = math.ceil(rows / sessions), math.ceil(prompts / sessions)
        passes = image_decoding(
            sizes,
            rows=rows,
            prompts=prompts,
            prompt_length=self.lengths.drawing,
            guided=own.guidance > 0,
            size=size,
        )
        sides = 2 if own.guidance else 1
        places = sides * (rows * sizes.image_tokens + prompts * self.lengths.drawing)
        weights = size * sizes.parameters * (2 if sizes.on_cpu and size == FLOAT else 1)
        peak = weights + size * places * sizes.position_elements + 5 * FLOAT * rows * sizes.codes
        return [one.repeated(sessions) for one in passes], peak

    def written(self, images: int, prompts: int, length: int, rows: int, tokens: int) -> tuple[list[Pass], float]:
        """Passes and peak of writing texts; arguments as `decoder.text_decoding`."""
        passes, peak = super().written(images, prompts, length, rows, tokens)
        sizes = self.decoder
        return [Pass(1, images * sizes.tower_flops, self.size * sizes.tower_parameters), *passes], peak

    def asked(self, method: VqaMethod, together: int, pairs: int) -> Load:
        """Self-VQA on all candidate images of some pairs, `together` of them at a time."""
        load, sizes = super().asked(method, together, pairs), self.decoder
        if method == "generate":
            return load
        flops = together * self.config.sampling.images.n * sizes.tower_flops
        return replace(load, passes=[Pass(pairs / together, flops, self.size * sizes.tower_parameters), *load.passes])

    def pair_scoring(self, training: Training, pairs: int) -> tuple[Any, Scored]:
        """A micro batch of Pair-DPO, its texts and its images."""
        refuse_masks(training)
        sizes = self.decoder
        return (
            text_scoring(sizes, **self._captions(pairs)),
            image_scoring(sizes, **self._drawn(pairs), scored=sizes.image_tokens),
        )

    def scored(self, work: Any, *, size: int = FLOAT) -> Pass:
        """A batch without gradients."""
        return self._with_tower(super().scored(work, size=size), work, 1)

    def trained(self, work: Any, *, dpo: bool = False) -> Pass:
        """A batch with gradients; in Pair-DPO the tower has none."""
        return self._with_tower(super().trained(work, dpo=dpo), work, 1 if dpo else 3)

    def _with_tower(self, one: Pass, work: Any, times: int) -> Pass:
        images = work.images if isinstance(work, ScoredTexts) else 0
        return replace(one, flops=one.flops + times * images * self.decoder.tower_flops / work.calls)


def text_scoring(sizes: Decoder, *, images: int, size: int = FLOAT, **texts: int) -> ScoredTexts:
    """`Janus.text_logps`; arguments as `decoder.text_scoring`."""
    return ScoredTexts(*decoder.text_scoring(sizes, images=images, size=size, **texts), images=images)


def image_scoring(
    sizes: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> decoder.Scored:
    """`Janus.image_logps`; arguments as `decoder.image_scoring`, where the prompt has the beginning of the image."""
    over_codes = replace(sizes, vocabulary=sizes.codes)
    work = decoder.image_scoring(
        over_codes, prompts=prompts, prompt_length=prompt_length - 1, rows=rows, scored=scored, size=size
    )
    entering = rows * (sizes.image_tokens - 1) * sizes.code_state
    leaving = sizes.head(rows * scored, sizes.hidden_size)
    return work._replace(flops=replace(work.flops, linear=work.flops.linear + entering + leaving))


def image_decoding(
    sizes: Decoder, *, rows: int, prompts: int, prompt_length: int, guided: bool, size: int
) -> list[Pass]:
    """`generation.generate_images`: prompts once, then code by code; a prompt is read once for its rows.

    Args:
        sizes: the model.
        rows: images written together, as many of each prompt.
        prompts: different prompts among them, all as long as the longest.
        prompt_length: its columns, the beginning of the image included.
        guided: with unconditional rows.
        size: bytes of a number.
    """
    length, sides, places = prompt_length - 1, 2 if guided else 1, sizes.image_tokens
    different, every = prompts + sides - 1, rows * sides
    states = Pass(
        places - 1, rows * sizes.code_state, size * (sizes.code_width + sizes.hidden_size) * sizes.hidden_size
    )
    return [
        sizes.forward(rows=different, length=length, seen=length, size=size),
        sizes.forward(
            rows=every,
            length=1,
            seen=length + (places + 1) / 2,
            size=size,
            times=places,
            shared=(every - different) * length,
        ),
        states,
        sizes.logits(places=every, outputs=sizes.hidden_size, size=size, times=places),
        sizes.logits(places=rows, outputs=sizes.codes, size=size, times=places),
    ]


def text_calls(sizes: Decoder, **texts: int) -> list[memory.Call]:
    """Calls of `Janus.text_logps`; arguments as `memory.text_calls`."""
    return memory.text_calls(sizes, **texts)


def image_calls(
    sizes: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> list[memory.Call]:
    """Calls of `Janus.image_logps`; arguments as `memory.image_calls`. Every prompt has a mask of its own."""
    calls = memory.image_calls(sizes, prompts=prompts, prompt_length=prompt_length, rows=rows, scored=scored, size=size)
    each, mask = (
        prompt_length + rows / prompts * sizes.image_block,
        sizes.image_block * (prompt_length + sizes.image_block),
    )
    return [replace(call, masks=call.tokens / each * mask) for call in calls]


def expected_masked(schedule: MaskSchedule, *, tokens: int) -> float:
    """Image tokens that are scored of a row: all of them."""
    return tokens


@cache
def directions(settings: ImageTokenizer, image_size: int) -> tuple[pixels.Pixels, pixels.Pixels]:
    """Encoder and decoder of the image tokenizer, read from the convolutions that one tile runs through."""
    size = settings.tile_size or image_size
    tiles, found = (image_size // size) ** 2, list[pixels.Pixels]()
    with torch.device("meta"):
        network, tile = ImageVQ(settings), torch.empty(1, 3, size, size)
        side = size // network.token_size
        codes = torch.empty(1, side**2, dtype=torch.int64)
    ways = (
        (network.encode, tile, (network.encoder, network.quant_conv)),
        (network.decode, codes, (network.post_quant_conv, network.decoder)),
    )
    for run, inputs, parts in ways:
        modules = [module for part in parts for module in part.modules()]
        convs: list[pixels.Conv] = []
        hooks = [
            module.register_forward_hook(partial(_add, convs)) for module in modules if isinstance(module, nn.Conv2d)
        ]
        run(inputs)
        for hook in hooks:
            hook.remove()
        attentions = sum(isinstance(module, JanusVQVAEAttnBlock) for module in modules)
        width = settings.channels * settings.encoder_multipliers[-1] * attentions
        found.append(pixels.Pixels(tuple(convs), side**2, width, tiles))
    there, back = found
    return there, back


def saved_bytes(settings: ImageTokenizer, image_size: int) -> int:
    """Weights of the image tokenizer on disk."""
    with torch.device("meta"):
        return FLOAT * sum(p.numel() for p in ImageVQ(settings).parameters())


def _add(convs: list[pixels.Conv], conv: Any, _: object, output: torch.Tensor) -> None:
    convs.append(pixels.Conv(conv.in_channels, conv.out_channels, conv.kernel_size[0], output.shape[-1]))
