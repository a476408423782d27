"""Peak memory of training and decoding: what is alive at once, in bytes.

Training has float32 weights; under mixed precision (autocast) it makes half-size copies of them. What a layer keeps for
its gradient is listed in `_saved`, found by reading the autograd graph of transformers' PhiDecoderLayer. Products
without gradients on the CPU have a copy of their weights in their kernel's layout. test_budget_memory.py holds the
float32 figures against measured peaks of processes on the CPU; those of mixed precision follow CUDA's autocast lists
and were not measured: there is no GPU here. Allocators and kernels' own workspaces come on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.core.processor import matrix_kernel
from hermesflow.models.costs.decoder import Decoder
from hermesflow.models.logps import LOGITS
from hermesflow.models.machines import FLOAT
from hermesflow.models.text_session import GROWTH

_KERNELS = 6 * 2**20
"""Bytes of what oneDNN, where it is the kernel, compiles for the shapes that it meets in training; measured."""
_LOGIT = 12
"""Bytes per logit at its worst without `logps._Logps`: logits, in float32 once more, and their log-soft-max; backward
the log-soft-max and two gradients."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What runs through the decoder together in training and scoring."""

    tokens: float
    joined: float
    """Positions whose keys and values are copied to stand behind those that they share."""
    masks: float
    """Elements of attention masks."""
    scored: float
    """Places that logits are made of."""


def text_calls(
    decoder: Decoder, *, images: int, prompts: int, prompt_length: int, rows: int, scored: int, size: int = FLOAT
) -> list[Call]:
    """Calls of `text_logps`; arguments as `decoder.text_scoring`."""
    each = (prompts * prompt_length + rows * (scored - 1)) / images
    seen = decoder.image_prefix + each
    call = Call(tokens=seen, joined=seen, masks=each * seen, scored=rows * scored / images)
    return _groups(call, images, decoder.texts_together(images=images, rows=rows, size=size))


def image_calls(
    decoder: Decoder, *, prompts: int, prompt_length: int, rows: int, scored: float, size: int = FLOAT
) -> list[Call]:
    """Calls of `image_logps`; arguments as `decoder.image_scoring`."""
    each, block = rows / prompts, decoder.image_block
    tokens, joined = prompt_length + each * block, prompt_length + each * (prompt_length + block)
    call = Call(tokens=tokens, joined=joined, masks=0, scored=each * scored)
    return _groups(call, prompts, decoder.images_together(prompts=prompts, rows=rows, size=size))


def _groups(one: Call, count: int, together: int) -> list[Call]:
    sizes = [min(together, count - start) for start in range(0, count, together)]
    return [Call(**{name: n * value for name, value in vars(one).items()}) for n in sizes]


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a training process holds at its peak, in bytes."""

    weights: int
    moments: int
    buckets: int
    """Copies that processes exchange gradients through (data parallel)."""
    activations: int
    """With logits, half-size weights and compiled kernels."""
    gradients: int
    """At the end of the backward pass, when activations are gone; the optimiser, one kernel, needs nothing besides."""
    gradients_held: bool
    """Gradients of earlier micro batches are there during the pass."""

    @property
    def total(self) -> int:
        """The worse of the two ends of the backward pass."""
        held = self.gradients if self.gradients_held else 0
        return self.weights + self.moments + self.buckets + max(self.activations + held, self.gradients)


def training_peak(
    decoder: Decoder,
    calls: Sequence[Call],
    *,
    precision: str,
    recomputed: bool,
    adapters: int,
    processes: int,
    accumulated: bool,
) -> Peak:
    """Peak of one process that trains with AdamW, from its second step on.

    Args:
        decoder: the model.
        calls: every call to the decoder of one micro batch, in order.
        precision: `no`, `bf16` or `fp16`.
        recomputed: layers keep their inputs alone.
        adapters: parameters of low-rank adapters; 0 trains all weights.
        processes: that share the batch (data parallel).
        accumulated: a step has more than one micro batch.
    """
    trained = adapters or decoder.parameters
    half = 0 if precision == "no" else 2 * decoder.parameters
    kernels = _KERNELS if decoder.on_cpu and precision == "no" and matrix_kernel() == "onednn" else 0
    largest = 0 if adapters else decoder.vocabulary * decoder.hidden_size
    activations = _activations(
        decoder, calls, precision=precision, recomputed=recomputed, trained=trained, head=largest
    )
    return Peak(
        weights=FLOAT * (decoder.parameters + adapters),
        moments=2 * FLOAT * trained,
        buckets=FLOAT * trained if processes > 1 else 0,
        activations=half + kernels + activations,
        gradients=FLOAT * trained,
        gradients_held=accumulated,
    )


def scoring_peak(decoder: Decoder, calls: Sequence[Call], *, precision: str) -> int:
    """Peak of log-probabilities without gradients in training's precision: weights, and the widest call."""
    half = 0 if precision == "no" else 2 * decoder.parameters
    return FLOAT * decoder.parameters + half + _scoring(decoder, calls, FLOAT, FLOAT if precision == "no" else _LOGIT)


def inference_scoring_peak(decoder: Decoder, calls: Sequence[Call], *, size: int) -> int:
    """The same of a model whose weights have `size` bytes each."""
    return weights(decoder, decoder.vocabulary, size) + _scoring(decoder, calls, size, _LOGIT)


def text_decoding_peak(
    decoder: Decoder,
    *,
    images: int,
    prompts: int,
    prompt_length: int,
    rows: int,
    tokens: int,
    keep_below: float,
    size: int = FLOAT,
) -> int:
    """Peak of `sampling.sample_texts`; arguments as `decoder.text_decoding`.

    Keys and values of images are there once, those of prompts and of what is written for every row. The peak may be
    when those of a group of images have been computed, when rows get more room, or when rows are copied that go on
    while others have ended (`keep_below` of them).
    """
    prefix, each = decoder.image_prefix, prompts * prompt_length / images
    together = decoder.texts_together(images=images, rows=rows, size=size)
    seen, elements = prefix + each, decoder.position_elements
    room = images * prefix + rows * (prompt_length + GROWTH)
    run = together * seen * (elements + 2 * decoder.hidden_size)
    run += working(decoder, together * seen, 1) + together * each * seen
    grown = math.ceil((tokens - 1) / GROWTH) * GROWTH
    steps = images * prefix + rows * (2 * (prompt_length + grown) - (GROWTH if grown else 0))
    continued = (1 + keep_below) * (images * prefix + rows * (prompt_length + grown))
    start = max(room * elements * (together < images) + run, (room + together * seen) * elements)
    then = (max(steps if grown > GROWTH else 0, continued) * elements) + 2 * rows * decoder.vocabulary
    return weights(decoder, decoder.vocabulary, size) + int(size * max(start, then))


def weights(decoder: Decoder, outputs: int, size: int) -> int:
    """Weights without gradients, and their copies in their kernel's layout, with a head of so many outputs."""
    copied = decoder.layers * decoder.layer_weights + decoder.hidden_size * outputs
    return size * (decoder.parameters + (copied if decoder.on_cpu and size == FLOAT else 0))


def _scoring(decoder: Decoder, calls: Sequence[Call], size: int, logit: int) -> int:
    """The widest call: on its way through a layer, or with its logits."""
    hidden = decoder.hidden_size
    peaks = [
        max(
            working(decoder, call.tokens, size) + size * (2 * hidden * call.joined + call.masks),
            size * hidden * (call.tokens + call.scored) + logit * _together(decoder, call),
        )
        for call in calls
    ]
    return int(max(peaks))


def _activations(
    decoder: Decoder, calls: Sequence[Call], *, precision: str, recomputed: bool, trained: int, head: int
) -> int:
    """The worst of: a call's logits; the backward pass of a layer, when the head's gradient is already there.

    Calls go backward from the last to the first; behind the last all gradients are there.
    """
    hidden, inner, worst = decoder.hidden_size, decoder.intermediate_size, 0.0
    again = decoder.on_cpu and precision == "no" and trained == decoder.parameters  # see kernels._Linear
    saved = [
        decoder.layers * (FLOAT * hidden * call.tokens if recomputed else _saved(decoder, call, precision, again))
        + FLOAT * hidden * (2 * call.tokens + call.scored)  # final norm, and the head's input
        for call in calls
    ]
    logits = [_together(decoder, call) for call in calls]
    held = [
        FLOAT * count if count == decoder.vocabulary * call.scored else 0
        for count, call in zip(logits, calls, strict=True)
    ]
    for i, call in enumerate(calls):
        loss = logits[i] * (FLOAT if precision == "no" else _LOGIT) - held[i] + FLOAT * hidden * call.scored
        layer = FLOAT * (4 * hidden + (3 if again else 2) * inner) * call.tokens - held[i]  # gradients of its states
        if recomputed:
            layer += _saved(decoder, call, precision, again)
        known = FLOAT * trained if i + 1 < len(calls) else 0
        worst = max(worst, sum(saved[: i + 1]) + sum(held[: i + 1]) + known + FLOAT * head + max(loss, layer))
    return int(worst)


def _saved(decoder: Decoder, call: Call, precision: str, again: bool) -> float:
    """Bytes that one layer keeps of a call.

    Per token, in float32: its input and normalised input, query and key before their norms, the query behind its norm
    and rotation, attention's output by itself and in its place (7 D), and the MLP before and after its activation
    (2 I), which may be computed `again` instead (I). Keys and values are kept where they are joined. Under autocast
    norms are float32, and the normalised input is cast once for each of four products.
    """
    hidden = decoder.hidden_size
    if precision == "no":
        per_token, size = FLOAT * (7 * hidden + decoder.saved_states(again=again)), FLOAT
    else:
        per_token, size = 26 * hidden + 2 * decoder.saved_states(again=False), 2
    statistics = FLOAT * (2 + 5 * decoder.heads) * call.tokens  # of norms and soft-max
    return per_token * call.tokens + statistics + size * (2 * hidden * call.joined + call.masks)


def working(decoder: Decoder, tokens: float, size: int) -> float:
    """What a layer holds on its way without gradients.

    Three states, and the MLP before and after its activation; or in attention its input before and after the norm,
    query and key after theirs, their rotated part, both rotated, value, and output, in two layouts.
    """
    return size * tokens * max(3 * decoder.hidden_size + decoder.working_states, 11 * decoder.hidden_size)


def _together(decoder: Decoder, call: Call) -> float:
    """Logits that are there together."""
    return decoder.vocabulary * min(call.scored, max(LOGITS // decoder.vocabulary, 1))
