"""Peak memory of MaskGIT."""

from __future__ import annotations

from hermesflow.models.costs.memory import weights, working
from hermesflow.models.machines import FLOAT
from hermesflow.models.showo.costs.decoder import UNCONDITIONAL, Decoder
from hermesflow.models.showo.costs.masked import masked_counts


def image_decoding_peak(
    decoder: Decoder, *, rows: int, prompts: int, prompt_length: int, steps: int, guided: bool, size: int = FLOAT
) -> int:
    """Peak of `sampling.sample_images`; arguments as `decoder.image_decoding`.

    Keys and values are those of prompts alone; images run some at a time, behind a copy of their prompts' in one layer.
    It is the first step's logits, all places being masked, or the second's, when probabilities of the first are there.
    """
    hidden, codes, block = decoder.hidden_size, decoder.codes, decoder.image_block
    caches = prompts * prompt_length + (UNCONDITIONAL if guided else 0)
    together = decoder.blocks_together(rows=rows, size=size)
    forward = working(decoder, together * block, size)
    forward += size * hidden * together * (3 * prompt_length + 2 * block)
    if guided:
        forward += FLOAT * 3 * hidden * together * block  # both sides' states
    places, then = [rows * masked for masked in [*masked_counts(decoder.image_tokens, steps), 0]][:2]
    states = size * 2 * hidden * then
    first = max(size * codes * (places + prompts * decoder.image_tokens), 2 * FLOAT * codes * places)
    second = FLOAT * codes * places + states + max(forward, 2 * FLOAT * codes * then)
    return weights(decoder, codes, size) + int(size * caches * decoder.position_elements + max(first, second))
