"""Arithmetic of image tokenizers: parameters, FLOPs and memory, of what one tile runs through on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.machines import FLOAT, Pass

_ALIVE = 4
"""Feature maps of the widest level that exist at once: of a residual block its input, the change so far, and input and
output of the second convolution."""
_PRODUCTS = (nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Pixels:
    """One direction of an image tokenizer on images of some size."""

    parameters: int
    """Of this direction, the codebook aside."""
    flops: int
    """Forward FLOPs of one image."""
    maps: tuple[int, ...]
    """Elements of the output of each product, of one tile and frame."""
    tiles: int
    """An image is so many tiles, each of which runs alone."""

    def peak(self, images: int) -> int:
        """Bytes at the widest place for so many images at once, in float32, without the weights."""
        return FLOAT * _ALIVE * images * self.tiles * max(self.maps)

    def passes(self, images: int, *, together: int) -> list[Pass]:
        """Forward passes over so many images."""
        batches = images / together
        return [Pass(batches, self.flops * together, FLOAT * self.parameters)]


@cache
def directions(kind: type[nn.Module], settings: ImageTokenizer, image_size: int) -> tuple[Pixels, Pixels]:
    """Encoder and decoder of an image tokenizer.

    Args:
        kind: makes the tokenizer of these settings.
        settings: its sizes.
        image_size: pixels per side.
    """
    size = settings.tile_size or image_size
    with torch.device("meta"):
        network: Any = kind(settings)
        tile = torch.empty(1, 3, size, size)
        codes = torch.empty(1, (size // network.token_size) ** 2, dtype=torch.int64)
    tiles = (image_size // size) ** 2
    return _pixels(network, network.encode, tile, tiles), _pixels(network, network.decode, codes, tiles)


def _pixels(network: nn.Module, run: Any, inputs: torch.Tensor, tiles: int) -> Pixels:
    parameters: dict[nn.Module, int] = {}
    maps: list[int] = []

    def note(module: nn.Module, _: object, output: torch.Tensor) -> None:
        parameters[module] = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, _PRODUCTS):
            frames = output.shape[2] if isinstance(module, nn.Conv3d) else 1
            maps.append(output[0].numel() // frames)

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with FlopCounterMode(display=False) as counter:
        run(inputs)
    for hook in hooks:
        hook.remove()
    return Pixels(sum(parameters.values()), tiles * counter.get_total_flops(), tuple(maps), tiles)


@cache
def saved_bytes(kind: type[nn.Module], settings: ImageTokenizer) -> int:
    """Weights of an image tokenizer on disk."""
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in kind(settings).state_dict().values())
