"""How much runs together: as much as there is room for."""

from __future__ import annotations

SESSION_BYTES = 16_000_000_000
"""What the rows of one session may hold."""
CPU_STATE_BYTES = 16 * 2**20
"""The widest state of a layer for the tokens that run together: every group adds to the gradients of all weights."""
STATE_BYTES = 512 * 2**20
"""The same on a GPU, where it is only there to bound memory."""
_FLOAT = 4


def text_rows(*, layers: int, hidden_size: int, element_size: int, num_image_tokens: int, max_text_tokens: int) -> int:
    """Texts written together: keys and values of an image of its own, of a prompt, and of what is written, for each.

    Args:
        layers: of the decoder.
        hidden_size: of the decoder.
        element_size: bytes of a number.
        num_image_tokens: of an image.
        max_text_tokens: longest text.
    """
    positions = num_image_tokens + 3 + 2 * max_text_tokens
    return max(SESSION_BYTES // (2 * layers * hidden_size * element_size * positions), 1)


def image_rows(*, num_image_tokens: int, codebook_size: int) -> int:
    """Images drawn together: logits over the codes, their soft-max and its running sums for each.

    Args:
        num_image_tokens: of an image.
        codebook_size: number of codes.
    """
    return max(SESSION_BYTES // (3 * _FLOAT * num_image_tokens * codebook_size), 1)


def tokens_together(*, intermediate_size: int, element_size: int, on_cpu: bool) -> int:
    """Tokens that run through the decoder together: on the CPU their widest state stays in its last cache.

    Args:
        intermediate_size: width of the widest state.
        element_size: bytes of a number.
        on_cpu: where they run.
    """
    room = CPU_STATE_BYTES if on_cpu else STATE_BYTES
    return max(room // (intermediate_size * element_size), 1)
