"""How many texts or images are decoded together: as many as have room for their keys and values."""

from __future__ import annotations

SESSION_BYTES = 16_000_000_000
"""Keys and values that the rows of one session may hold; copies of them can be there once more."""


def text_rows(*, layers: int, hidden_size: int, element_size: int, num_image_tokens: int, max_text_tokens: int) -> int:
    """Texts written together: each holds an image, its prompt, and what is written.

    Args:
        layers: of the decoder.
        hidden_size: of the decoder.
        element_size: bytes of a number.
        num_image_tokens: of an image.
        max_text_tokens: longest text.
    """
    positions = num_image_tokens + 3 + 2 * max_text_tokens
    return max(SESSION_BYTES // (2 * layers * hidden_size * element_size * positions), 1)


def image_rows(*, layers: int, hidden_size: int, element_size: int, num_image_tokens: int, max_text_tokens: int) -> int:
    """Images drawn together: each holds its prompt and itself, twice where it is guided; arguments as `text_rows`."""
    positions = 2 * (num_image_tokens + 2 + max_text_tokens + 1)
    return max(SESSION_BYTES // (2 * layers * hidden_size * element_size * positions), 1)
