"""Arithmetic of image tokenizers: parameters, FLOPs and memory, from the list of their convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.machines import FLOAT, Pass

_ALIVE = 4
"""Feature maps of the widest level that exist at once: of a residual block its input, the change so far, and input and
output of the second convolution."""


@dataclass(frozen=True)
class Conv:
    """A convolution and the normalisation before it."""

    inputs: int
    outputs: int
    kernel: int
    side: int
    """Pixels per side of the output."""
    normed: bool = False
    taps: int = 1
    """Frames that the kernel spans."""
    frames: int = 1
    """Of the output."""

    @property
    def flops(self) -> int:
        """Of one image."""
        return 2 * self.frames * self.taps * self.side**2 * self.inputs * self.outputs * self.kernel**2

    @property
    def parameters(self) -> int:
        """Weights, biases, and those of the normalisation."""
        return self.taps * self.inputs * self.outputs * self.kernel**2 + self.outputs + 2 * self.inputs * self.normed


@dataclass(frozen=True)
class Pixels:
    """One direction of an image tokenizer on images of some size."""

    convs: tuple[Conv, ...]
    attended: int
    """Positions of the one attention."""
    width: int
    """Its channels."""
    tiles: int
    """An image is so many tiles, each of which runs alone."""

    @property
    def parameters(self) -> int:
        """Of this direction."""
        return sum(conv.parameters for conv in self.convs)

    @property
    def flops(self) -> int:
        """Forward FLOPs of one image."""
        return self.tiles * (sum(conv.flops for conv in self.convs) + 4 * self.attended**2 * self.width)

    def peak(self, images: int) -> int:
        """Bytes at the widest place for so many images at once, in float32, without the weights."""
        return 4 * _ALIVE * images * self.tiles * max(conv.side**2 * conv.outputs for conv in self.convs)

    def passes(self, images: int, *, together: int) -> list[Pass]:
        """Forward passes over so many images."""
        batches = images / together
        return [Pass(batches, self.flops * together, 4 * self.parameters)]


@cache
def directions(
    kind: type[nn.Module], settings: ImageTokenizer, image_size: int, *, encodes: tuple[str, ...]
) -> tuple[Pixels, Pixels]:
    """Encoder and decoder of an image tokenizer, read from the products that one tile runs through.

    Args:
        kind: makes the tokenizer of these settings.
        settings: its sizes.
        image_size: pixels per side.
        encodes: names of the parts that pixels run through; codes run through all others.
    """
    size = settings.tile_size or image_size
    tiles, sides = (image_size // size) ** 2, list[Pixels]()
    with torch.device("meta"):
        network: Any = kind(settings)
        tile = torch.empty(1, 3, size, size)
        side = size // network.token_size
        codes = torch.empty(1, side**2, dtype=torch.int64)
    for run, inputs, of_pixels in ((network.encode, tile, True), (network.decode, codes, False)):
        parts = [part for name, part in network.named_children() if (name in encodes) == of_pixels]
        modules = [module for part in parts for module in part.modules()]
        convs: list[Conv] = []
        products = nn.Conv2d, nn.Conv3d, nn.Linear
        hooks = [
            module.register_forward_hook(partial(_add, convs)) for module in modules if isinstance(module, products)
        ]
        run(inputs)
        for hook in hooks:
            hook.remove()
        attentions = sum(type(module).__name__.endswith(("AttnBlock", "AttentionBlock")) for module in modules)
        width = settings.channels * settings.encoder_multipliers[-1] * attentions
        sides.append(Pixels(tuple(convs), side**2, width, tiles))
    encoder, decoder = sides
    return encoder, decoder


@cache
def saved_bytes(kind: type[nn.Module], settings: ImageTokenizer, image_size: int) -> int:
    """Weights of an image tokenizer on disk; arguments as `directions`."""
    with torch.device("meta"):
        network: Any = kind(settings)
    return FLOAT * sum(tensor.numel() for tensor in network.state_dict().values())


def _add(convs: list[Conv], module: Any, _: object, output: torch.Tensor) -> None:
    if isinstance(module, nn.Linear):  # of attention, (1, positions, width)
        convs.append(Conv(module.in_features, module.out_features, 1, math.isqrt(output.shape[1])))
        return
    (*taps, kernel), widths = module.kernel_size[:-1], (module.in_channels, module.out_channels)
    frames = math.prod((output.shape[0], *output.shape[2:-2]))
    convs.append(Conv(*widths, kernel, output.shape[-1], taps=math.prod(taps), frames=frames))
