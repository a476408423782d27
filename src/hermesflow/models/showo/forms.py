"""What an image of Show-o is."""

from __future__ import annotations

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.images import ImageForm

FAMILY = "showo"


def image_form(image_size: int, tokenizer: ImageTokenizer) -> ImageForm:
    """(T,) codes of an image of `image_size` pixels a side."""
    token_size = tokenizer.patch_size * 2 ** (len(tokenizer.encoder_multipliers) - 1)
    return ImageForm("codes", ((image_size // token_size) ** 2,), "uint16")
