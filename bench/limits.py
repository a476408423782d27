"""What counting allows: the least arithmetic, and the least reading of memory, that each work needs.

The algorithm that is counted runs an image once for all texts about it, a question once for all its choices, a prompt
once for all images drawn from it, chosen and rejected behind what they share. It pads nothing and computes logits only
where a token is drawn or scored (an image being drawn: over the codes alone, at places still masked). Causal text
attends to what is before it alone: half the square. The last layer of a prefix is computed whole. A pass takes the
longer of its matrix products at the highest rate that either kernel was measured at, and of reading weights, keys and
values once; soft-maxes, element-wise work and the optimiser cost nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hermesflow.models import kernels

UNCONDITIONAL = 3
"""Tokens of the empty prompt: t2i, start and end of text."""
_BYTES = 4  # of a float32
_SIDES = ((1024, 1024, 1024), (2048, 2048, 2048), (2048, 512, 2048))
_TRIES = 4

Block = tuple[float, float, float]
"""Rows, tokens of each, positions that a token sees on average."""
Product = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: dict[str, Product] = {"blas": torch.nn.functional.linear, "onednn": kernels._product}
"""x @ weight.T by each kernel."""


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Sizes of a Show-o model; a token through a layer costs 2 FLOPs a weight, and 4 D per position it sees."""

    hidden_size: int
    layers: int
    intermediate_size: int
    vocabulary: int
    codes: int
    image_tokens: int

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size

    @property
    def image_prefix(self) -> int:
        """Columns before a text: task token, boundaries, image."""
        return self.image_tokens + 3

    @property
    def image_block(self) -> int:
        """Columns of an image that is drawn, with its boundaries."""
        return self.image_tokens + 2

    def flops(self, *, rows: float, length: float, seen: float) -> float:
        """Of a forward pass through the layers: blocks of `length` tokens that attend to `seen` positions."""
        return rows * length * self.layers * (2 * self.layer_weights + 4 * self.hidden_size * seen)

    def head(self, places: float, outputs: int) -> float:
        """FLOPs of logits."""
        return 2 * self.hidden_size * outputs * places


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
    def measured(read: float) -> Machine:
        """Best of several tries of every kernel, about a second in all.

        Args:
            read: bytes that are read again and again; what fits into a cache is read faster.
        """
        sizes = [(torch.rand(rows, inner), torch.rand(outputs, inner)) for rows, inner, outputs in _SIDES]
        flops = max(
            2 * len(x) * weight.numel() / _best(lambda x=x, weight=weight, by=by: by(x, weight))
            for x, weight in sizes
            for by in PRODUCTS.values()
        )
        matrix, vector = torch.ones(max(int(read) // _BYTES // 1024, 1), 1024), torch.ones(1, 1024)
        readers = [matrix.sum, *(lambda by=by: by(vector, matrix) for by in PRODUCTS.values())]
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
    return [_pass(decoder, blocks, places=places, outputs=decoder.vocabulary)]


def image_decoding(decoder: Decoder, *, texts: Sequence[int], rows_each: int, steps: int, guided: bool) -> list[Pass]:
    """Images drawn from each of the prompts, whose lengths include their special tokens.

    Nothing is known in the first step, so it is one pass for each different prompt.
    """
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
        passes.append(_pass(decoder, blocks, places=rows * masked, outputs=decoder.codes, known=known))
    return passes


def masked_counts(tokens: int, steps: int) -> list[int]:
    """Places that are masked when each step of MaskGIT begins, by the cosine schedule."""
    counts = [tokens]
    for step in range(steps - 1):
        share = math.cos((step + 1) / steps * math.pi / 2)
        counts.append(max(min(counts[-1] - 1, math.floor(tokens * share)), 1))
    return counts


@dataclass(frozen=True)
class PairLengths:
    """Tokens of one homologous pair."""

    completions: tuple[int, int]
    """Of both captions, without start and end."""
    prompt: int
    """Of the caption that images are drawn from, with its special tokens."""
    masked: int
    """Image tokens that are scored."""


def pair_dpo_step(decoder: Decoder, *, prompt: int, pairs: Sequence[PairLengths]) -> list[Pass]:
    """Forward and backward (two products for each): `prompt` is what captions are asked for, start token included."""
    prefix, block, blocks, places = decoder.image_prefix, decoder.image_block, [], 0
    for pair in pairs:
        blocks += _prompts(decoder, [prompt])
        blocks += [_causal(1, length, prefix + prompt) for length in pair.completions]
        blocks += [_causal(1, pair.prompt, 0), (2, block, pair.prompt + block)]
        places += 1 + sum(pair.completions) + 2 * pair.masked
    forward = _pass(decoder, blocks, places=places, outputs=decoder.vocabulary)
    return [Pass(1, 3 * forward.flops, 3 * forward.read)]


def plain_flops(decoder: Decoder, *, rows: int, length: int) -> float:
    """Of a plain pass: all of a row attends to all of it, logits everywhere."""
    return decoder.flops(rows=rows, length=length, seen=length) + decoder.head(rows * length, decoder.vocabulary)


def flops_of(passes: Iterable[Pass]) -> float:
    """All of them."""
    return sum(p.times * p.flops for p in passes)


def _writing(decoder: Decoder, *, images: int, prompts: Sequence[int], rows_each: int, tokens: int) -> list[Pass]:
    """Texts behind each of the prompts about each of the images; prompts and images are read once for their rows."""
    prefix, rows = decoder.image_prefix, images * rows_each * len(prompts)
    start = _pass(
        decoder, _prompts(decoder, prompts) * images, places=images * len(prompts), outputs=decoder.vocabulary
    )
    before, known = prefix + sum(prompts) / len(prompts), images * (prefix + sum(prompts))
    steps = [
        _pass(
            decoder,
            [(rows, 1, before + written)],
            places=rows,
            outputs=decoder.vocabulary,
            known=known + rows * (written - 1),
        )
        for written in range(1, tokens)  # the first token needs no step
    ]
    return [start, *steps]


def _prompts(decoder: Decoder, prompts: Sequence[int]) -> list[Block]:
    """An image and the prompts behind it."""
    prefix = decoder.image_prefix
    return [(1.0, float(prefix), float(prefix)), *(_causal(1, length, prefix) for length in prompts)]


def _causal(rows: float, length: float, before: float) -> Block:
    return rows, length, before + (length + 1) / 2


def _pass(decoder: Decoder, blocks: Sequence[Block], *, places: float, outputs: int, known: float = 0) -> Pass:
    """A pass over some blocks that read keys and values of their own positions and of `known` ones before them."""
    layers = sum(decoder.flops(rows=rows, length=length, seen=seen) for rows, length, seen in blocks)
    positions = known + sum(rows * length for rows, length, _ in blocks)
    weights = decoder.layers * decoder.layer_weights + decoder.hidden_size * outputs
    read = _BYTES * (weights + 2 * decoder.hidden_size * decoder.layers * positions)
    return Pass(1, layers + decoder.head(places, outputs), read)


def _best(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
