"""Convolutions of the MAGVITv2 image tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.costs.pixels import Conv, Pixels


def encoder(settings: ImageTokenizer, image_size: int) -> Pixels:
    """Pixels to codes; see `models.showo.magvit_blocks.Encoder`."""
    return _pixels(settings, image_size, tuple(_encoder(settings, _side(settings, image_size))), encodes=True)


def decoder(settings: ImageTokenizer, image_size: int) -> Pixels:
    """Codes to pixels; see `models.showo.magvit_blocks.Decoder`."""
    return _pixels(settings, image_size, tuple(_decoder(settings, _side(settings, image_size))), encodes=False)


def saved_bytes(settings: ImageTokenizer, image_size: int) -> int:
    """Weights on disk: both directions and the codebook."""
    parameters = encoder(settings, image_size).parameters + decoder(settings, image_size).parameters
    codebook = 2**settings.codebook_bits * settings.codebook_bits
    return 4 * (parameters + codebook) + 8 * settings.codebook_bits


def _side(settings: ImageTokenizer, image_size: int) -> int:
    return (settings.tile_size or image_size) // settings.patch_size


def _pixels(settings: ImageTokenizer, image_size: int, convs: tuple[Conv, ...], *, encodes: bool) -> Pixels:
    multipliers = settings.encoder_multipliers if encodes else settings.decoder_multipliers
    tiles = (image_size // settings.tile_size) ** 2 if settings.tile_size else 1
    attended = (_side(settings, image_size) // 2 ** (len(multipliers) - 1)) ** 2
    return Pixels(convs, attended, settings.channels * multipliers[-1], tiles)


def _encoder(settings: ImageTokenizer, side: int) -> Iterator[Conv]:
    kernel, width, bits = settings.kernel_size, settings.channels, settings.codebook_bits
    yield Conv(3 * settings.patch_size**2, width, kernel, side)
    for level, multiplier in enumerate(settings.encoder_multipliers):
        if level:
            side //= 2
            yield Conv(width, width, 3, side)
        before, width = width, settings.channels * multiplier
        yield from _blocks(before, width, settings.encoder_blocks[level], kernel, side)
    yield from _middle(width, kernel, side)
    yield Conv(width, bits, kernel, side, normed=True)
    yield Conv(bits, bits, 1, side)


def _decoder(settings: ImageTokenizer, side: int) -> Iterator[Conv]:
    kernel, bits = settings.kernel_size, settings.codebook_bits
    levels = len(settings.decoder_multipliers)
    side //= 2 ** (levels - 1)
    width = settings.channels * settings.decoder_multipliers[-1]
    yield Conv(bits, bits, 1, side)
    yield Conv(bits, width, kernel, side)
    yield from _middle(width, kernel, side)
    for level in reversed(range(levels)):
        before, width = width, settings.channels * settings.decoder_multipliers[level]
        yield from _blocks(before, width, settings.decoder_blocks[level], kernel, side)
        if level:
            side *= 2
            yield Conv(width, width, kernel, side)
    yield Conv(width, 3 * settings.patch_size**2, kernel, side, normed=True)


def _blocks(before: int, width: int, count: int, kernel: int, side: int) -> Iterator[Conv]:
    for number in range(count):
        inputs = width if number else before
        yield Conv(inputs, width, kernel, side, normed=True)
        yield Conv(width, width, kernel, side, normed=True)
        if inputs != width:
            yield Conv(inputs, width, 1, side)


def _middle(width: int, kernel: int, side: int) -> Iterator[Conv]:
    yield from _blocks(width, width, 1, kernel, side)
    yield Conv(width, width, 1, side, normed=True)  # the attention's query; its norm counts once
    for _ in range(3):
        yield Conv(width, width, 1, side)
    yield from _blocks(width, width, 1, kernel, side)
