"""What counting allows: the least arithmetic, and the least reading of memory, that each work needs.

The algorithm that is counted runs an image once for all texts about it, a question once for all its choices, a prompt
once for all images drawn from it, chosen and rejected behind what they share. It pads nothing and computes logits only
where a token is drawn or scored (an image being drawn: over the codes alone, at places still masked). What is causal
attends to what is before it alone: half the square. The last layer of a prefix is computed whole. Sizes and columns are
those that `plan` counts with (`models/*/costs`). A pass takes the
longer of its matrix products at the highest rate that either kernel was measured at, and of reading weights, keys and
values once; soft-maxes, element-wise work and the optimiser cost nothing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from hermesflow.core.processor import MatrixKernel
from hermesflow.models.costs import next_token
from hermesflow.models.costs.decoder import Decoder
from hermesflow.models.kernels import KERNELS
from hermesflow.models.showo.costs.decoder import UNCONDITIONAL
from hermesflow.models.showo.costs.masked import masked_counts

_BYTES = 4  # of a float32
SIDES = {
    "medium": ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 512, 2048)),
    "tiny": ((128, 128, 128), (256, 256, 256)),
}
"""Of the products that the peak is measured on, for the sizes of works."""
_TRIES = 4

Block = tuple[float, float, float]
"""Rows, tokens of each, positions that a token sees on average."""
PRODUCTS: Mapping[MatrixKernel, Callable[[Tensor, Tensor], Tensor]] = KERNELS
"""x @ weight.T by each kernel."""


@dataclass(frozen=True)
class Pass:
    """Equal passes; every figure but `times` is of one of them."""

    times: float
    flops: float
    """Of matrix products and attention alone; a multiplication and an addition are two."""
    read: float
    """Bytes of weights, keys and values."""


@dataclass(frozen=True)
class Machine:
    """What one thread reaches in this minute."""

    flops: float
    """Per second, of large float32 matrix products by the faster kernel."""
    bandwidth: float
    """Bytes read per second."""

    @staticmethod
    def measured(read: float, size: str = "medium") -> Machine:
        """Best of several tries of every kernel, about a second in all.

        Args:
            read: bytes that are read again and again; what fits into a cache is read faster.
            size: of the works, of `SIDES`.
        """
        sizes = [(torch.rand(rows, inner), torch.rand(outputs, inner)) for rows, inner, outputs in SIDES[size]]
        flops = max(
            2 * len(x) * weight.numel() / _best(partial(by, x, weight))
            for x, weight in sizes
            for by in PRODUCTS.values()
        )
        matrix, vector = torch.ones(max(int(read) // _BYTES // 1024, 1), 1024), torch.ones(1, 1024)
        readers: list[Callable[[], object]] = [matrix.sum, *(partial(by, vector, matrix) for by in PRODUCTS.values())]
        return Machine(flops, _BYTES * matrix.numel() / min(map(_best, readers)))

    def best(self, other: Machine) -> Machine:
        """The faster of both in each."""
        return Machine(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))

    def seconds(self, passes: Sequence[Pass]) -> float:
        """The least time that passes can take."""
        return sum(p.times * max(p.flops / self.flops, p.read / self.bandwidth) for p in passes)

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def kernel_rates(*, rows: int, inputs: int, outputs: int, tries: int = 10) -> dict[MatrixKernel, float]:
    """FLOP/s of each kernel on a linear layer in training: its output and both gradients, the best of some tries."""
    x, weight, gradient = torch.rand(rows, inputs), torch.rand(outputs, inputs), torch.rand(rows, outputs)
    products = [(x, weight), (gradient, weight.t()), (gradient.t(), x.t())]
    seconds = dict.fromkeys(PRODUCTS, math.inf)
    for _ in range(tries):  # in turn, so that a disturbed moment meets both
        for name, by in PRODUCTS.items():
            start = time.process_time()
            for pair in products:
                by(*pair)
            seconds[name] = min(seconds[name], time.process_time() - start)
    return {name: len(products) * 2 * rows * inputs * outputs / least for name, least in seconds.items()}


def captioning(decoder: Decoder, *, prompt: int, rows: int, tokens: int, together: int = 1) -> list[Pass]:
    """`rows` texts of `tokens` tokens behind one image and one prompt of `prompt` tokens, start token included.

    Where several images are described together they share the reading of the weights; this is the part of one.
    """
    passes = _writing(decoder, images=together, prompts=[prompt], rows_each=rows, tokens=tokens)
    return [Pass(p.times / together, p.flops, p.read) for p in passes]


def vqa_generate(decoder: Decoder, *, prompts: Sequence[int], tokens: int) -> list[Pass]:
    """An answer of `tokens` tokens behind each of the prompts about one image."""
    return _writing(decoder, images=1, prompts=prompts, rows_each=1, tokens=tokens)


def vqa_likelihood(decoder: Decoder, *, prompts: Sequence[int], choices: Sequence[Sequence[int]]) -> list[Pass]:
    """Choices of so many tokens behind each prompt; the end token is scored, not run."""
    prefix, blocks = decoder.image_prefix, _prompts(decoder, prompts)
    for prompt, lengths in zip(prompts, choices, strict=True):
        blocks += [_causal(1, length, prefix + prompt) for length in lengths]
    places = len(prompts) + sum(map(sum, choices))  # after a question all its choices are scored by the same logits
    return [*_tower(decoder, 1), _pass(decoder, blocks, [(places, decoder.vocabulary)])]


def image_decoding(decoder: Decoder, *, texts: Sequence[int], rows_each: int, steps: int, guided: bool) -> list[Pass]:
    """Images drawn from each of the prompts, whose lengths include their special tokens.

    By MaskGIT nothing is known in the first step, so it is one pass for each different prompt.
    """
    if isinstance(decoder, next_token.Decoder):
        return _code_by_code(decoder, texts=texts, rows_each=rows_each, guided=guided)
    block, sides = decoder.image_block, [(length, rows_each) for length in texts]
    if guided:
        sides.append((UNCONDITIONAL, rows_each * len(texts)))
    before = [_causal(1, length, 0) for length, _ in sides]
    first = [(1.0, float(block), float(length + block)) for length, _ in sides]
    then = [(float(rows), float(block), float(length + block)) for length, rows in sides]
    prompts = sum(length for length, _ in sides)  # their keys and values are read again in every step
    passes, images = [], rows_each * len(texts)
    for step, masked in enumerate(masked_counts(decoder.image_tokens, steps)):
        blocks, rows = (before + first, len(texts)) if step == 0 else (then, images)
        known = 0 if step == 0 else prompts
        passes.append(_pass(decoder, blocks, [(rows * masked, decoder.codes)], known=known))
    return passes


def _code_by_code(decoder: next_token.Decoder, *, texts: Sequence[int], rows_each: int, guided: bool) -> list[Pass]:
    """Prompts once, then a pass for every token; logits, of which forced tokens have none, are spread evenly."""
    sides = [(length, rows_each) for length in texts]
    if guided:
        sides += Counter([decoder.unconditional(length) for length in texts for _ in range(rows_each)]).items()
    passes = [_pass(decoder, [_causal(1, length, 0) for length, _ in sides], [])]
    every, prompts = sum(rows for _, rows in sides), sum(length for length, _ in sides)
    *inner, codes = decoder.code_outputs
    share, images = decoder.image_tokens / decoder.image_block, rows_each * len(texts)
    heads = [*((share * every, outputs) for outputs in inner), (share * images, codes)]
    entering = images * (decoder.image_tokens - 1) * decoder.code_state / decoder.image_block
    for written in range(1, decoder.image_block + 1):
        blocks = [(float(rows), 1.0, float(length + written)) for length, rows in sides]
        known = prompts + every * (written - 1)
        passes.append(_pass(decoder, blocks, heads, known=known, more=entering))
    return passes


@dataclass(frozen=True)
class PairLengths:
    """Tokens of one homologous pair."""

    completions: tuple[int, int]
    """Of both captions, without start and end."""
    prompt: int
    """Of the caption that images are drawn from, with its special tokens."""
    scored: int
    """Image tokens."""


def pair_dpo_step(decoder: Decoder, *, prompt: int, pairs: Sequence[PairLengths]) -> list[Pass]:
    """Forward and backward (two products for each): `prompt` is what captions are asked for, start token included."""
    prefix, block, blocks = decoder.image_prefix, decoder.image_block, []
    for pair in pairs:
        blocks += _prompts(decoder, [prompt])
        blocks += [_causal(1, length, prefix + prompt) for length in pair.completions]
        blocks.append(_causal(1, pair.prompt, 0))
        blocks.append(_causal(2, block, pair.prompt) if _is_causal(decoder) else (2, block, pair.prompt + block))
    texts, codes = sum(1 + sum(pair.completions) for pair in pairs), sum(2 * pair.scored for pair in pairs)
    heads, more = [(texts + codes, decoder.vocabulary)], 0.0
    if isinstance(decoder, next_token.Decoder):
        heads = [(texts, decoder.vocabulary), *((codes, outputs) for outputs in decoder.scored_outputs)]
        more = (codes - 2 * len(pairs)) * decoder.code_state
    forward = _pass(decoder, blocks, heads, more=more)
    return [*_tower(decoder, len(pairs)), Pass(1, 3 * forward.flops, 3 * forward.read)]


def plain_flops(decoder: Decoder, *, rows: int, length: int) -> float:
    """Of a plain pass: all of a row attends to all of it, logits everywhere."""
    layers = decoder.flops(rows=rows, length=length, seen=length).forward
    return layers + decoder.head(rows * length, decoder.vocabulary)


def flops_of(passes: Iterable[Pass]) -> float:
    """All of them."""
    return sum(p.times * p.flops for p in passes)


def _writing(decoder: Decoder, *, images: int, prompts: Sequence[int], rows_each: int, tokens: int) -> list[Pass]:
    """Texts behind each of the prompts about each of the images; prompts and images are read once for their rows."""
    prefix, rows = decoder.image_prefix, images * rows_each * len(prompts)
    start = _pass(decoder, _prompts(decoder, prompts) * images, [(images * len(prompts), decoder.vocabulary)])
    before, known = prefix + sum(prompts) / len(prompts), images * (prefix + sum(prompts))
    steps = [
        _pass(
            decoder,
            [(rows, 1, before + written)],
            [(rows, decoder.vocabulary)],
            known=known + rows * (written - 1),
        )
        for written in range(1, tokens)  # the first token needs no step
    ]
    return [*_tower(decoder, images), start, *steps]


def _tower(decoder: Decoder, images: int) -> list[Pass]:
    """What only images that are read go through, without gradients, where a family has that."""
    tower = Pass(1, images * decoder.tower_flops, _BYTES * decoder.tower_parameters)
    return [tower] if decoder.tower_parameters else []


def _prompts(decoder: Decoder, prompts: Sequence[int]) -> list[Block]:
    """An image and the prompts behind it."""
    prefix = decoder.image_prefix
    image = _causal(1, prefix, 0) if _is_causal(decoder) else (1.0, float(prefix), float(prefix))
    return [image, *(_causal(1, length, prefix) for length in prompts)]


def _is_causal(decoder: Decoder) -> bool:
    """Whether the tokens of an image see those before them alone."""
    return isinstance(decoder, next_token.Decoder)


def _causal(rows: float, length: float, before: float) -> Block:
    return rows, length, before + (length + 1) / 2


def _pass(
    decoder: Decoder, blocks: Sequence[Block], heads: Sequence[tuple[float, int]], *, known: float = 0, more: float = 0
) -> Pass:
    """A pass over some blocks that read keys and values of their own positions and of `known` ones before them.

    Args:
        decoder: the model.
        blocks: that run together.
        heads: places and outputs of the products behind the layers.
        known: positions before the blocks.
        more: further FLOPs.
    """
    layers = sum(decoder.flops(rows=rows, length=length, seen=seen).forward for rows, length, seen in blocks)
    positions = known + sum(rows * length for rows, length, _ in blocks)
    weights = decoder.layers * decoder.layer_weights + decoder.hidden_size * sum(outputs for _, outputs in heads)
    read = _BYTES * (weights + decoder.position_elements * positions)
    return Pass(1, layers + more + sum(decoder.head(*head) for head in heads), read)


def _best(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_TRIES):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)
