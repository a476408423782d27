"""What counting allows: the least arithmetic, and the least reading of weights, that each work needs.

The algorithm that is counted runs an image once for all texts about it, a question once for all its choices, a prompt
once for all images drawn from it, chosen and rejected behind what they share. It pads nothing and computes logits only
where a token is drawn or scored (an image being drawn: over the codes alone, at places still masked). Causal text
attends to what is before it alone: half the square. The last layer of a prefix is computed whole. A pass takes the
longer of its matrix products at the measured peak and of reading its weights once; keys and values, soft-maxes,
element-wise work and the optimiser cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from hermesflow.models.machines import Pass, total
from hermesflow.models.showo.costs.decoder import UNCONDITIONAL, Decoder
from hermesflow.models.showo.costs.masked import masked_counts

_BYTES = 4  # of a float32
_STREAMED = 256 * 2**20  # bytes, many times the last cache

Block = tuple[float, float, float]
"""Rows, tokens of each, positions that a token sees on average."""


@dataclass(frozen=True)
class Machine:
    """What one thread reaches in this minute."""

    flops: float
    """Per second, of large float32 matrix products."""
    bandwidth: float
    """Bytes read per second."""

    @staticmethod
    def measured() -> Machine:
        """Best of several tries, about a second in all."""
        sides = [torch.rand(side, side) for side in (1024, 2048)]
        flops = max(2 * len(a) ** 3 / _best(lambda a=a: torch.mm(a, a), 4) for a in sides)
        matrix, vector = torch.ones(_STREAMED // _BYTES // 1024, 1024), torch.ones(1, 1024)
        seconds = min(_best(lambda: F.linear(vector, matrix), 4), _best(matrix.sum, 4))
        return Machine(flops, _STREAMED / seconds)

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
    alone = _writing(decoder, prompts=[prompt], rows_each=rows, tokens=tokens)
    return [Pass(p.times / together, p.flops * together, p.read, p.tokens * together) for p in alone]


def vqa_generate(decoder: Decoder, *, prompts: Sequence[int], tokens: int) -> list[Pass]:
    """An answer of `tokens` tokens behind each of the prompts about one image."""
    return _writing(decoder, prompts=prompts, rows_each=1, tokens=tokens)


def vqa_likelihood(decoder: Decoder, *, prompts: Sequence[int], choices: Sequence[Sequence[int]]) -> list[Pass]:
    """Choices of so many tokens behind each prompt; the end token is scored, not run."""
    prefix, blocks = decoder.image_prefix, _prompts(decoder, prompts)
    for prompt, some in zip(prompts, choices, strict=True):
        blocks += [_causal(1, length, prefix + prompt) for length in some]
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
    passes, images = [], rows_each * len(texts)
    for step, masked in enumerate(masked_counts(decoder.image_tokens, steps)):
        blocks, rows = (before + first, len(texts)) if step == 0 else (then, images)
        passes.append(_pass(decoder, blocks, places=rows * masked, outputs=decoder.codes))
    return passes


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
    return [Pass(1, 3 * forward.flops, 3 * forward.read, forward.tokens)]


def plain_flops(decoder: Decoder, *, rows: int, length: int) -> float:
    """Of a plain pass: all of a row attends to all of it, logits everywhere."""
    layers = decoder.flops(rows=rows, length=length, seen=length).forward
    return layers + decoder.head(rows * length, decoder.vocabulary)


def flops_of(passes: Sequence[Pass]) -> float:
    """All of them."""
    return total(passes, "flops")


def _writing(decoder: Decoder, *, prompts: Sequence[int], rows_each: int, tokens: int) -> list[Pass]:
    prefix, rows = decoder.image_prefix, rows_each * len(prompts)
    start = _pass(decoder, _prompts(decoder, prompts), places=len(prompts), outputs=decoder.vocabulary)
    before = prefix + sum(prompts) / len(prompts)
    steps = [
        _pass(decoder, [(rows, 1, before + written)], places=rows, outputs=decoder.vocabulary)
        for written in range(1, tokens)  # the first token needs no step
    ]
    return [start, *steps]


def _prompts(decoder: Decoder, prompts: Sequence[int]) -> list[Block]:
    """An image and the prompts behind it."""
    prefix = decoder.image_prefix
    return [(1.0, float(prefix), float(prefix)), *(_causal(1, length, prefix) for length in prompts)]


def _causal(rows: float, length: float, before: float) -> Block:
    return rows, length, before + (length + 1) / 2


def _pass(decoder: Decoder, blocks: Sequence[Block], *, places: float, outputs: int) -> Pass:
    layers = sum(decoder.flops(rows=rows, length=length, seen=seen).forward for rows, length, seen in blocks)
    read = _BYTES * (decoder.layers * decoder.layer_weights + decoder.hidden_size * outputs)
    tokens = sum(rows * length for rows, length, _ in blocks)
    return Pass(1, layers + decoder.head(places, outputs), read, tokens)


def _best(work: Callable[[], object], tries: int) -> float:
    work()
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
