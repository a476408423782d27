"""Peak memory of training and decoding: what is alive at once, in bytes.

Weights are float32 in every stage; under mixed precision (autocast) training makes half-size copies of them. What a
layer keeps for its gradient is listed in `_kept`, found by reading the autograd graph of transformers' PhiDecoderLayer.
`tests/test_budget_memory.py` holds the float32 figures against measured peaks of processes on the CPU; those of mixed
precision follow CUDA's autocast lists and were not measured: there is no GPU here. Allocators and kernels' own
workspaces come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from hermesflow.budget.decoder import UNCONDITIONAL, Decoder

FLOAT = 4
_LOGIT = 12
"""Bytes per logit of a scored place at its worst, in every precision: forward the logits, those of scored places and
the log-soft-max; backward the log-soft-max and two gradients."""
_HELD_LOGIT = 4
"""Of which the log-soft-max is held until its gradient is taken."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Blocks that run through the decoder together in training."""

    rows: int
    length: int
    """Tokens of each."""
    prefix: int = 0
    """Positions of a shared prefix that each sees."""
    scored: int = 0
    """Places of each that logits are made of."""
    masks: int = 1
    """Attention masks: one per row, or one for all."""
    prefixed: bool = False
    """Others continue these: their keys and values are held."""

    @property
    def tokens(self) -> int:
        """That run."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a training process holds at its peak, in bytes."""

    weights: int
    moments: int
    buckets: int
    """Copies that processes exchange gradients through (data parallel)."""
    activations: int
    """With logits and half-size weights."""
    gradients: int
    """At the end of the backward pass, when activations are gone; with what the optimiser needs besides."""
    gradients_held: bool
    """Gradients of earlier micro batches are there during the pass."""

    @property
    def total(self) -> int:
        """The worse of the two ends of the backward pass."""
        held = self.gradients if self.gradients_held else 0
        return self.weights + self.moments + self.buckets + max(self.activations + held, self.gradients)


def training_peak(
    decoder: Decoder,
    calls: list[Rows],
    *,
    precision: str,
    recomputed: bool,
    adapters: int,
    processes: int,
    accumulated: bool,
    fused: bool,
) -> Peak:
    """Peak of one process that trains with AdamW, from its second step on.

    Args:
        decoder: the model.
        calls: every call to the decoder of one micro batch, in order; the last one's logits are the last to be made.
        precision: `no`, `bf16` or `fp16`.
        recomputed: layers keep their inputs alone.
        adapters: parameters of low-rank adapters; 0 trains all weights.
        processes: that share the batch (data parallel).
        accumulated: a step has more than one micro batch.
        fused: the optimiser works on all tensors at once (torch's default on GPUs), which takes a copy of a moment;
            one by one it takes three copies of the largest tensor.
    """
    trained = adapters or decoder.parameters
    half = 0 if precision == "no" else 2 * decoder.parameters
    largest = 0 if adapters else decoder.vocabulary * decoder.hidden_size
    return Peak(
        weights=FLOAT * (decoder.parameters + adapters),
        moments=2 * FLOAT * trained,
        buckets=FLOAT * trained if processes > 1 else 0,
        activations=half + _activations(decoder, calls, precision=precision, recomputed=recomputed, head=largest),
        gradients=FLOAT * (trained + (trained if fused else 3 * largest)),
        gradients_held=accumulated,
    )


def scoring_peak(decoder: Decoder, calls: list[Rows], *, precision: str) -> int:
    """Peak of log-probabilities without gradients: weights, a shared prefix, the widest call, its logits."""
    half = 0 if precision == "no" else 2 * decoder.parameters
    held = sum(FLOAT * decoder.position_elements * call.tokens for call in calls if call.prefixed)
    own = [
        max(_working(decoder, call.tokens, FLOAT) + _seen_again(decoder, call), _LOGIT * _logits(decoder, call))
        for call in calls
    ]
    return FLOAT * decoder.parameters + half + held + max(own)


def image_decoding_peak(
    decoder: Decoder, *, rows: int, prompts: int, prompt_length: int, guided: bool, on_cpu: bool, size: int = FLOAT
) -> int:
    """Peak of `sampling.sample_images`; arguments as `decoder.image_decoding`.

    Every row has keys and values of its prompt and of its block, in all layers, on both sides. On the CPU the
    probabilities of the step before are still there.
    """
    block = decoder.image_block
    caches = (rows + prompts) * (prompt_length + block)
    if guided:
        caches += (rows + 1) * (UNCONDITIONAL + block)
    masks = rows * block * (prompt_length + block) * (2 if guided else 1)
    places = rows * decoder.image_tokens
    probabilities = FLOAT * places * decoder.codes
    # attention wants its mask as numbers
    forward = _working(decoder, rows * block, size) + size * rows * block * (prompt_length + block)
    if guided:
        forward += FLOAT * rows * block * decoder.hidden_size  # the other side's states
    head = 2 * probabilities + FLOAT * places * decoder.hidden_size * (2 if guided else 1)
    before = probabilities if on_cpu else 2 * probabilities  # a GPU also draws: probabilities and their running sums
    return size * (decoder.parameters + caches * decoder.position_elements) + masks + before + max(forward, head)


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

    Caches are copied as a whole: images to prompts, prompts to rows, and rows that go on when others have ended
    (`keep_below` of them), all of which may be the peak.
    """
    prefix, vocabulary = decoder.image_prefix, decoder.vocabulary
    before = prefix + prompt_length
    logits = (prompts + rows) * vocabulary
    caches = max(
        images * prefix + prompts * before,
        prompts * before + rows * (before + _growth()),
        rows * (1 + keep_below) * (before + tokens),
    )
    forward = max(images * prefix, prompts * prompt_length)
    working = max(_working(decoder, forward, size) - size * rows * vocabulary, 0)
    return int(size * (decoder.parameters + caches * decoder.position_elements + logits) + working)


def _growth() -> int:
    from hermesflow.models.sessions import GROWTH

    return GROWTH


def _activations(decoder: Decoder, calls: list[Rows], *, precision: str, recomputed: bool, head: int) -> int:
    """The worst of: the last logits; the backward pass of a layer, when the head's gradient is already there."""
    stream = FLOAT if recomputed else 0
    kept = sum(
        decoder.layers * (stream * decoder.hidden_size * call.tokens if recomputed else _kept(decoder, call, precision))
        + FLOAT * decoder.hidden_size * (call.tokens + call.rows * call.scored)  # final norm, and the head's input
        + (FLOAT * decoder.position_elements * call.tokens if recomputed and call.prefixed else 0)
        for call in calls
    )
    logits = [_logits(decoder, call) for call in calls]
    held = _HELD_LOGIT * sum(logits[:-1])
    widest = max(calls, key=lambda call: call.tokens)
    layer = FLOAT * 2 * (decoder.hidden_size + decoder.intermediate_size) * widest.tokens + FLOAT * head
    if recomputed:
        layer += _kept(decoder, widest, precision)
    return kept + held + max(_LOGIT * logits[-1], layer)


def _kept(decoder: Decoder, call: Rows, precision: str) -> int:
    """Bytes that one layer keeps of a call.

    Per token, in float32: its input and normalised input, query and key before and after their norms and rotation,
    value, attention's output (8 D), and the MLP before and after its activation (2 I). Under autocast norms are
    float32, and the normalised input is cast once for each of four products. A row behind a prefix keeps keys and
    values of both.
    """
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    if precision == "no":
        per_token, size, own_keys = FLOAT * (8 * hidden + 2 * inner), FLOAT, 2 * FLOAT * hidden
    else:
        per_token, size, own_keys = 28 * hidden + 4 * inner, 2, 2 * 2 * hidden
    statistics = FLOAT * (2 + 5 * decoder.heads) * call.tokens  # of norms and soft-max
    seen = call.prefix + call.length
    masks = size * call.masks * call.length * seen
    behind = call.rows * seen * 2 * size * hidden - call.tokens * own_keys if call.prefix else 0
    return per_token * call.tokens + statistics + masks + behind


def _seen_again(decoder: Decoder, call: Rows) -> int:
    """Keys and values of a prefix gathered for every row, and once more joined with the row's own; one layer's."""
    if not call.prefix:
        return 0
    return FLOAT * 2 * decoder.hidden_size * call.rows * (2 * call.prefix + call.length)


def _working(decoder: Decoder, tokens: int, size: int) -> int:
    """What a layer holds on its way without gradients: three states, and the MLP before and after its activation."""
    return size * tokens * (3 * decoder.hidden_size + 2 * decoder.intermediate_size)


def _logits(decoder: Decoder, call: Rows) -> int:
    return call.rows * call.scored * decoder.vocabulary
