"""Janus' images: pixels as understanding reads them, codes of the image tokenizer as they are generated."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hermesflow.core.images import ImageForm
from hermesflow.models.codecs import CodesCodec
from hermesflow.models.janus import FAMILY
from hermesflow.models.janus.vq import ImageVQ


class JanusCodec(CodesCodec):
    """Implements `backbone.ImageCodec`: codes by another image tokenizer than Show-o's, and pixels to see.

    Args:
        network: the image tokenizer, in evaluation mode.
        image_size: pixels per side.
    """

    family = FAMILY
    network_class = ImageVQ

    def __init__(self, network: ImageVQ, image_size: int) -> None:
        super().__init__(network, image_size)
        self.seen = ImageForm("pixels", (3, image_size, image_size), "uint8")

    def see(self, images: np.ndarray) -> Tensor:
        """The pixels, (N, 3, H, W) uint8 of (N, H, W, 3)."""
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def see_generated(self, images: Tensor) -> Tensor:
        """The pixels of codes (N, T), (N, 3, H, W) uint8."""
        return self.see(self.to_pixels(images))


meta_codec, load_codec = JanusCodec.meta, JanusCodec.load
