"""MAGVITv2 image tokenizer: pixels to a grid of lookup-free codes and back.

Tensor names are those of the released `showlab/magvitv2` weights, so a checkpoint loads strictly. `patch_size`
moves blocks of pixels into channels before the first convolution (and back after the last); `tile_size` codes square
tiles of the image one by one. The released model does neither.

Source: Yu et al. 2023, "Language Model Beats Diffusion", section 3; Show-o (Xie et al. 2024), section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.finite import check_finite
from hermesflow.models.codecs import Reconstruction
from hermesflow.models.showo.magvit_blocks import Decoder, Encoder
from hermesflow.models.tiles import cut, grid_of, join


class MagVitV2(nn.Module):
    """Image tokenizer: encoder, lookup-free quantizer, decoder."""

    def __init__(self, config: ImageTokenizer):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = LookupFreeQuantizer(config.codebook_bits)

    def encode(self, pixels: Tensor) -> Tensor:
        """Codes of images.

        Args:
            pixels: (B, 3, H, W) float in [-1, 1]; H and W divisible by patch_size * 2 ** (levels - 1) and tile_size.

        Returns:
            (B, T) int64 in [0, 2 ** codebook_bits), row by row.

        Raises:
            ValueError: the tiles do not fill the image.
            NotFiniteError: a latent is not.
        """
        grid = grid_of(pixels, self.config.tile_size)
        latents = self.encoder(cut(pixels, self.config.tile_size))
        # or else each comparison with 0 is false, and its bit too
        check_finite(latents, lambda tile: f"a latent of image {tile * len(pixels) // len(latents)}")
        codes = self.quantize.codes_of(latents)
        return join(codes.unsqueeze(1), grid).flatten(1)

    def decode(self, codes: Tensor, *, grid: tuple[int, int] | None = None) -> Tensor:
        """Images of codes.

        Args:
            codes: (B, T) int64 in [0, 2 ** codebook_bits).
            grid: Rows and columns with rows * columns = T; by default a square.

        Returns:
            (B, 3, H, W) float, about [-1, 1].

        Raises:
            ValueError: T does not fill the grid.
        """
        rows, columns = grid or (math.isqrt(codes.shape[1]),) * 2
        if rows * columns != codes.shape[1]:
            raise ValueError(f"{codes.shape[1]} codes do not fill a {rows} x {columns} grid; pass `grid`.")
        bits = self.quantize.bits_of(codes.view(-1, rows, columns))
        tile = self.config.tile_size // self.token_size
        tiles = (rows // tile, columns // tile) if tile else (1, 1)
        return join(self.decoder(cut(bits, tile)), tiles)

    @property
    def token_size(self) -> int:
        """Side in pixels of what one token stands for."""
        return self.config.patch_size * 2 ** (len(self.config.encoder_multipliers) - 1)

    def forward(self, pixels: Tensor) -> Reconstruction:
        """Reconstruct images (or single tiles), for training; gradients pass straight through the quantizer.

        Args:
            pixels: (B, 3, H, W) float in [-1, 1].
        """
        grid = grid_of(pixels, self.config.tile_size)
        latents = self.encoder(cut(pixels, self.config.tile_size))
        bits, latents, entropy_loss, commitment_loss = self.quantize(latents)
        return Reconstruction(join(self.decoder(bits), grid), join(latents, grid), entropy_loss, commitment_loss)


class LookupFreeQuantizer(nn.Module):
    """The code of a vector is the signs of its channels, first channel the highest bit."""

    embedding: Tensor
    power_vals: Tensor

    def __init__(self, bits: int):
        super().__init__()
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        signs = (torch.arange(2**bits).unsqueeze(1) & powers).ne(0)
        self.register_buffer("embedding", signs.float() * 2.0 - 1.0)
        self.register_buffer("power_vals", powers)

    def codes_of(self, latents: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of latents (B, bits, h, w); zero counts as negative."""
        return ((latents > 0) * self.power_vals.view(-1, 1, 1)).sum(dim=1)

    def bits_of(self, codes: Tensor) -> Tensor:
        """Vectors of -1 and 1, (B, bits, h, w), of codes (B, h, w)."""
        return self.embedding[codes].permute(0, 3, 1, 2).contiguous()

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Signs with a straight-through gradient, scaled latents, entropy loss, commitment loss.

        Latents are first scaled to length sqrt(bits), the sphere through all codes: signs stay, and no bit can run
        off to where it gets no gradient. The entropy loss, in nats per bit, is low where every bit is sure of itself
        and used half of the time. The commitment loss is the mean squared distance to the signs.

        Args:
            latents: (B, bits, h, w).

        Source: Yu et al. 2023, Eq. 5; the sphere: Zhao et al. 2024, "Binary Spherical Quantization".
        """
        latents = F.normalize(latents.float(), dim=1) * math.sqrt(latents.shape[1])
        signs = torch.where(latents > 0, 1.0, -1.0)
        probability = torch.sigmoid(4.0 * latents)  # softmax of minus the squared distances to -1 and 1
        entropy_loss = _entropy(probability).mean() - _entropy(probability.mean(dim=(0, 2, 3))).mean()
        commitment_loss = F.mse_loss(latents, signs)
        return latents + (signs - latents).detach(), latents, entropy_loss, commitment_loss


def _entropy(probability: Tensor) -> Tensor:
    """Entropy in nats of bits that are 1 with this probability."""
    bounded = probability.clamp(1e-6, 1.0 - 1e-6)
    return -bounded * bounded.log() - (1.0 - bounded) * (1.0 - bounded).log()
