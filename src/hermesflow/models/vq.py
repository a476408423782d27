"""Image tokenizers with a codebook: what those of different families share.

`patch_size` moves blocks of pixels into channels before the first convolution, `tile_size` codes square tiles one by
one; the released models do neither. A tile of few pixels needs fewer groups (`norm_groups`): the norm of two numbers is
their order and nothing else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.errors import ConfigError
from hermesflow.models.codecs import Reconstruction
from hermesflow.models.tiles import cut, grid_of, join

GROUPS = 32  # of group normalisations in transformers' classes
SHARPNESS = 10.0  # of soft look-ups, for the entropy loss


def sizes_of(config: ImageTokenizer) -> dict[str, Any]:
    """Sizes as transformers names them.

    Raises:
        ConfigError: sizes that its classes do not have.
    """
    if (
        config.encoder_multipliers != config.decoder_multipliers
        or len(set(config.encoder_blocks)) != 1
        or len(config.encoder_blocks) != len(config.encoder_multipliers)
        or any(config.channels * multiplier % GROUPS for multiplier in config.encoder_multipliers)
    ):
        raise ConfigError(
            "image_tokenizer: with a codebook, encoder and decoder have the same multipliers, all levels have as many "
            f"blocks, and channels are a multiple of {GROUPS}; change these keys."
        )
    return {
        "in_channels": 3 * config.patch_size**2,
        "out_channels": 3 * config.patch_size**2,
        "base_channels": config.channels,
        "channel_multiplier": list(config.encoder_multipliers),
        "num_res_blocks": config.encoder_blocks[0],
    }


class Codebook(nn.Module, ABC):
    """Vectors, one for each code.

    Args:
        codes: rows.
        width: length of a row.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    @abstractmethod
    def compared(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What is compared of latents, likewise, and how like each row it is, (N, h, w, codes)."""

    @abstractmethod
    def vectors_of(self, codes: Tensor) -> Tensor:
        """Vectors (N, width, h, w) of codes (N, h, w)."""

    def codes_of(self, latents: Tensor) -> Tensor:
        """Codes (N, h, w) int64 of latents (N, width, h, w)."""
        return self.compared(latents)[1].argmax(dim=3)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors with a straight-through gradient, unit-length latents, entropy loss, commitment loss.

        The entropy loss, in nats, is low where every look-up is sure of itself and all codes are used alike. The
        commitment loss is the mean squared distance of latents and vectors, by which both move.

        Args:
            latents: (N, width, h, w).

        Source: LlamaGen (arXiv 2406.06525) section 2.1; the entropy: Yu et al. 2023, Eq. 5.
        """
        compared, likeness = self.compared(latents)
        vectors = self.vectors_of(likeness.argmax(dim=3))
        probability = (SHARPNESS * likeness).softmax(dim=3)
        entropy_loss = _entropy(probability).mean() - _entropy(probability.mean(dim=(0, 1, 2)))
        commitment_loss = (compared - vectors).square().sum(dim=1).mean()
        straight = compared + (vectors - compared).detach()
        return straight, F.normalize(compared, dim=1), entropy_loss, commitment_loss


class TiledVQ(nn.Module, ABC):
    """Image tokenizer: encoder, codebook, decoder."""

    quantize: Codebook

    def __init__(self, config: ImageTokenizer) -> None:
        super().__init__()
        self.config = config

    def use_groups(self) -> None:
        """Give all group normalisations as many groups as the config says."""
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = self.config.norm_groups

    @property
    def token_size(self) -> int:
        """Side in pixels of what one code stands for."""
        return self.config.patch_size * 2 ** (len(self.config.encoder_multipliers) - 1)

    @abstractmethod
    def encoded(self, patches: Tensor) -> Tensor:
        """What is looked up, (N, width, h, w), of tiles whose patches are channels."""

    @abstractmethod
    def decoded(self, vectors: Tensor) -> Tensor:
        """Tiles whose patches are channels, of vectors (N, width, h, w)."""

    def latents(self, pixels: Tensor) -> Tensor:
        """What is looked up, (N, width, h, w), of pixels (B, 3, H, W) in [-1, 1]; an image is one or more tiles."""
        return self.encoded(F.pixel_unshuffle(cut(pixels, self.config.tile_size), self.config.patch_size))

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of images.

        Args:
            pixels: (B, 3, H, W) float in [-1, 1]; both sides divisible by `token_size` and tile_size.

        Returns:
            (B, T) int64 in [0, 2 ** codebook_bits), row by row.
        """
        grid = grid_of(pixels, self.config.tile_size)
        codes = self.quantize.codes_of(self.latents(pixels))
        return join(codes[:, None], grid).flatten(1)

    def decode(self, codes: Tensor, *, grid: tuple[int, int] | None = None) -> Tensor:
        """Images of codes.

        Args:
            codes: (B, T) int64.
            grid: rows and columns of codes; None is a square.

        Returns:
            (B, 3, H, W) float, about [-1, 1].
        """
        rows, columns = grid or (math.isqrt(codes.shape[1]),) * 2
        images, tile = codes.view(-1, 1, rows, columns), self.config.tile_size // self.token_size
        vectors = self.quantize.vectors_of(cut(images, tile)[:, 0])
        return self._pixels(vectors, grid_of(images, tile))

    def forward(self, pixels: Tensor) -> Reconstruction:
        """Reconstruct images (or single tiles), for training; gradients pass straight through the look-up.

        Args:
            pixels: (B, 3, H, W) float in [-1, 1].
        """
        grid = grid_of(pixels, self.config.tile_size)
        vectors, unit, entropy_loss, commitment_loss = self.quantize(self.latents(pixels))
        scaled = unit * math.sqrt(unit.shape[1])
        return Reconstruction(self._pixels(vectors, grid), join(scaled, grid), entropy_loss, commitment_loss)

    def _pixels(self, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        return join(F.pixel_shuffle(self.decoded(vectors), self.config.patch_size), grid)


def _entropy(probability: Tensor) -> Tensor:
    """Entropy in nats of distributions (..., K)."""
    return -(probability * probability.clamp_min(1e-9).log()).sum(dim=-1)
