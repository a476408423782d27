"""Encoder and decoder of the MAGVITv2 image tokenizer: residual blocks, one attention, resampling.

Tensor names are those of the released weights, see `magvit`.
Source: Yu et al. 2023, "Language Model Beats Diffusion", section 3.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from hermesflow.config.sections import ImageTokenizer


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) to latents (B, bits, h, w)."""

    def __init__(self, config: ImageTokenizer):
        super().__init__()
        self.patch_size = config.patch_size
        widths = [config.channels * m for m in config.encoder_multipliers]
        self.conv_in = _conv(3 * config.patch_size**2, config.channels, config)
        self.down = nn.ModuleList()
        for level, (before, width) in enumerate(zip([config.channels, *widths], widths, strict=False)):
            step = nn.ModuleDict({"block": _blocks(before, width, config.encoder_blocks[level], config)})
            if level < len(widths) - 1:
                step["downsample"] = Downsample(width)
            self.down.append(step)
        self.mid = _middle(widths[-1], config)
        self.norm_out = _norm(widths[-1], config)
        self.conv_out = _conv(widths[-1], config.codebook_bits, config)
        self.quant_conv = nn.Conv2d(config.codebook_bits, config.codebook_bits, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Latents before quantization."""
        hidden = self.conv_in(F.pixel_unshuffle(pixels, self.patch_size))
        for step in self.down:
            for part in step.children():  # blocks, then resampling
                hidden = part(hidden)
        hidden = self.conv_out(F.silu(self.norm_out(self.mid(hidden))))
        return self.quant_conv(hidden)


class Decoder(nn.Module):
    """Vectors of -1 and 1, (B, bits, h, w), to pixels (B, 3, H, W)."""

    def __init__(self, config: ImageTokenizer):
        super().__init__()
        self.patch_size = config.patch_size
        widths = [config.channels * m for m in config.decoder_multipliers]
        self.post_quant_conv = nn.Conv2d(config.codebook_bits, config.codebook_bits, kernel_size=1)
        self.conv_in = _conv(config.codebook_bits, widths[-1], config)
        self.mid = _middle(widths[-1], config)
        self.up = nn.ModuleList()  # stored from fine to coarse, run from coarse to fine
        for level, (width, before) in enumerate(zip(widths, [*widths[1:], widths[-1]], strict=True)):
            step = nn.ModuleDict({"block": _blocks(before, width, config.decoder_blocks[level], config)})
            if level > 0:
                step["upsample"] = Upsample(width, config)
            self.up.append(step)
        self.norm_out = _norm(widths[0], config)
        self.conv_out = _conv(widths[0], 3 * config.patch_size**2, config)

    def forward(self, bits: Tensor) -> Tensor:
        """Pixels."""
        hidden = self.mid(self.conv_in(self.post_quant_conv(bits)))
        for step in reversed(self.up):
            for part in step.children():  # blocks, then resampling
                hidden = part(hidden)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(hidden))), self.patch_size)


class ResidualBlock(nn.Module):
    """Two normalised 3 x 3 convolutions around a skip connection."""

    def __init__(self, before: int, width: int, config: ImageTokenizer):
        super().__init__()
        self.norm1 = _norm(before, config)
        self.conv1 = _conv(before, width, config)
        self.norm2 = _norm(width, config)
        self.conv2 = _conv(width, width, config)
        if before != width:
            self.nin_shortcut = nn.Conv2d(before, width, kernel_size=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, before, h, w) to (B, width, h, w)."""
        change = self.conv1(F.silu(self.norm1(hidden)))
        change = self.conv2(F.silu(self.norm2(change)))
        skip = self.nin_shortcut(hidden) if hasattr(self, "nin_shortcut") else hidden
        return skip + change


class Attention(nn.Module):
    """Single-head self-attention over all positions of a feature map."""

    def __init__(self, width: int, config: ImageTokenizer):
        super().__init__()
        self.norm = _norm(width, config)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, kernel_size=1) for _ in range(4))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, width, h, w) to the same shape."""
        normed = self.norm(hidden)
        query, key, value = (f(normed).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return hidden + self.proj_out(mixed.transpose(1, 2).reshape(hidden.shape))


class Downsample(nn.Module):
    """Halve both sides; the odd pixel of padding goes right and below."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, width, h, w) to (B, width, h / 2, w / 2)."""
        return self.conv(F.pad(hidden, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double both sides by repetition, then a convolution."""

    def __init__(self, width: int, config: ImageTokenizer):
        super().__init__()
        self.conv = _conv(width, width, config)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, width, h, w) to (B, width, 2 h, 2 w)."""
        return self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


def _conv(before: int, width: int, config: ImageTokenizer) -> nn.Conv2d:
    return nn.Conv2d(before, width, config.kernel_size, padding=config.kernel_size // 2)


def _norm(width: int, config: ImageTokenizer) -> nn.GroupNorm:
    # narrow micro models need fewer groups
    return nn.GroupNorm(math.gcd(config.norm_groups, width), width, eps=1e-6)


def _blocks(before: int, width: int, count: int, config: ImageTokenizer) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(before if i == 0 else width, width, config) for i in range(count)))


def _middle(width: int, config: ImageTokenizer) -> nn.Sequential:
    parts = {
        "block_1": ResidualBlock(width, width, config),
        "attn_1": Attention(width, config),
        "block_2": ResidualBlock(width, width, config),
    }
    return nn.Sequential(OrderedDict(parts))
