"""Janus' image tokenizer: pixels to codes of a codebook of unit-length vectors, and back.

Encoder, decoder and tensor names are those of transformers' JanusVQVAE; the look-up is the official one, which takes
the direction of vectors alone (JanusVQVAE.encode does not, and finds other codes). `patch_size` moves blocks of pixels
into channels before the first convolution, `tile_size` codes square tiles one by one; the released model does neither.
A tile of few pixels needs fewer groups (`norm_groups`): the norm of two numbers is their order and nothing else.
Source: LlamaGen (Sun et al. 2024, arXiv 2406.06525) section 2.1; Janus (arXiv 2410.13848).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.errors import ConfigError
from hermesflow.models.codecs import Reconstruction
from hermesflow.models.janus.released import vq_names

GROUPS = 32  # of JanusVQVAE's group normalisations
SHARPNESS = 10.0  # of soft look-ups, for the entropy loss


def vq_config(config: ImageTokenizer, **of_model: Any) -> JanusVQVAEConfig:
    """The same sizes for transformers.

    Args:
        config: sizes of the image tokenizer.
        of_model: what the parts of the model around it need.

    Raises:
        ConfigError: sizes that JanusVQVAE does not have.
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
    return JanusVQVAEConfig(
        embed_dim=config.code_width or 8,
        num_embeddings=2**config.codebook_bits,
        latent_channels=config.latent_channels or 256,
        in_channels=3 * config.patch_size**2,
        out_channels=3 * config.patch_size**2,
        base_channels=config.channels,
        channel_multiplier=list(config.encoder_multipliers),
        num_res_blocks=config.encoder_blocks[0],
        **of_model,
    )


class ImageVQ(nn.Module):
    """Image tokenizer: encoder, codebook, decoder."""

    def __init__(self, config: ImageTokenizer) -> None:
        super().__init__()
        self.config = config
        parts = JanusVQVAE(vq_config(config))
        self.encoder, self.quant_conv = parts.encoder, parts.quant_conv
        self.decoder, self.post_quant_conv = parts.decoder, parts.post_quant_conv
        self.quantize = Codebook(2**config.codebook_bits, config.code_width or 8)
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = config.norm_groups

    @staticmethod
    def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of this network among those of a whole released model."""
        return vq_names(tensors)

    @property
    def token_size(self) -> int:
        """Side in pixels of what one code stands for."""
        return self.config.patch_size * 2 ** (len(self.config.encoder_multipliers) - 1)

    def latents(self, pixels: Tensor) -> Tensor:
        """What is looked up, (N, width, h, w), of pixels (B, 3, H, W) in [-1, 1]; an image is one or more tiles."""
        tiles = F.pixel_unshuffle(_cut(pixels, self._tile(pixels.shape[2])), self.config.patch_size)
        return self.quant_conv(self.encoder(tiles))

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of images.

        Args:
            pixels: (B, 3, H, H) float in [-1, 1]; H divisible by `token_size` and tile_size.

        Returns:
            (B, T) int64 in [0, 2 ** codebook_bits), row by row.
        """
        codes = self.quantize.codes_of(self.latents(pixels))
        return _join(codes[:, None], pixels.shape[2] // self._tile(pixels.shape[2])).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Square images of codes, (B, T) int64 to (B, 3, H, H) float, about [-1, 1]."""
        side = math.isqrt(codes.shape[1])
        tile = self._tile(side * self.token_size) // self.token_size
        grid = _cut(codes.view(-1, 1, side, side), tile)[:, 0]
        return self._pixels(self.quantize.vectors_of(grid), side // tile)

    def forward(self, pixels: Tensor) -> Reconstruction:
        """Reconstruct images (or single tiles), for training; gradients pass straight through the look-up.

        Args:
            pixels: (B, 3, H, H) float in [-1, 1].
        """
        latents = self.latents(pixels)
        vectors, unit, entropy_loss, commitment_loss = self.quantize(latents)
        tiles = pixels.shape[2] // self._tile(pixels.shape[2])
        scaled = unit * math.sqrt(latents.shape[1])
        return Reconstruction(self._pixels(vectors, tiles), _join(scaled, tiles), entropy_loss, commitment_loss)

    def _pixels(self, vectors: Tensor, tiles: int) -> Tensor:
        pixels = F.pixel_shuffle(self.decoder(self.post_quant_conv(vectors)), self.config.patch_size)
        return _join(pixels, tiles)

    def _tile(self, size: int) -> int:
        """Side of the tiles of an image of `size` pixels a side."""
        return min(self.config.tile_size or size, size)


class Codebook(nn.Module):
    """The code of a vector is the row of the codebook that points most nearly its way.

    Args:
        codes: rows.
        width: length of a row.
    """

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    @property
    def rows(self) -> Tensor:
        """Unit-length rows, (K, width)."""
        return F.normalize(self.embedding.weight, dim=1)

    def codes_of(self, latents: Tensor) -> Tensor:
        """Codes (N, h, w) int64 of latents (N, width, h, w)."""
        return torch.einsum("nchw,kc->nhwk", F.normalize(latents, dim=1), self.rows).argmax(dim=3)

    def vectors_of(self, codes: Tensor) -> Tensor:
        """Unit-length vectors (N, width, h, w) of codes (N, h, w)."""
        return F.normalize(self.embedding(codes), dim=-1).permute(0, 3, 1, 2).contiguous()

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vectors with a straight-through gradient, unit-length latents, entropy loss, commitment loss.

        The entropy loss, in nats, is low where every look-up is sure of itself and all codes are used alike. The
        commitment loss is the mean squared distance of latents and vectors, by which both move.

        Args:
            latents: (N, width, h, w).

        Source: LlamaGen section 2.1; the entropy: Yu et al. 2023, Eq. 5.
        """
        unit = F.normalize(latents, dim=1)
        likeness = torch.einsum("nchw,kc->nhwk", unit, self.rows)
        vectors = self.vectors_of(likeness.argmax(dim=3))
        probability = (SHARPNESS * likeness).softmax(dim=3)
        entropy_loss = _entropy(probability).mean() - _entropy(probability.mean(dim=(0, 1, 2)))
        commitment_loss = (unit - vectors).square().sum(dim=1).mean()
        return unit + (vectors - unit).detach(), unit, entropy_loss, commitment_loss


def _entropy(probability: Tensor) -> Tensor:
    """Entropy in nats of distributions (..., K)."""
    return -(probability * probability.clamp_min(1e-9).log()).sum(dim=-1)


def _cut(images: Tensor, size: int) -> Tensor:
    """Square tiles (B * tiles, C, size, size), row by row, of (B, C, H, H)."""
    tiles = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, rows, columns, size, size)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _join(tiles: Tensor, rows: int) -> Tensor:
    """The inverse of `_cut`; (B * rows * rows, C, h, h) to (B, C, rows * h, rows * h)."""
    grid = tiles.unflatten(0, (-1, rows, rows)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)
