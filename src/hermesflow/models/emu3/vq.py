"""Emu3's image tokenizer: pixels to codes of the nearest vectors of a codebook, and back.

Encoder, decoder and tensor names are those of transformers' Emu3VQVAE, which codes four frames at a time, an image as
four equal ones. Here the layers of single frames run once, and only the frame that is shown is decoded. Batch
normalisations stay in evaluation mode, so that no image depends on others, from scratch too.
Source: Emu3 (arXiv 2409.18869) section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self, cast

import torch
from torch import Tensor, nn
from transformers import Emu3VQVAEConfig
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE, Emu3VQVAEConv3d

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.vq import Codebook, TiledVQ, sizes_of

FRAMES = 4
LINEAR = 2.0  # where swish lets values of both signs pass
INSIDE = re.compile(r"^(model\.)?vqmodel\.")
"""Names of the image tokenizer in a whole model of transformers: what it saves today, and what was released."""
_RULES = [
    (r"^encoder\.down\.", "encoder.down_block.down."),
    (r"^decoder\.up\.", "decoder.up_block.up."),
    (r"^(encoder|decoder)\.mid\.", r"\1.middle_block."),
    (r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1."),
    (r"\.attn_1\.norm\.", ".attn_norm."),
    (r"\.([qkv])\.(weight|bias)$", r".\1_proj.\2"),
    (r"\.proj_out\.", ".out_proj."),
]
"""From official names to transformers'."""


def vq_config(config: ImageTokenizer) -> Emu3VQVAEConfig:
    """The same sizes for transformers; attention is at the narrowest level.

    Raises:
        ConfigError: sizes that Emu3VQVAE does not have.
    """
    return Emu3VQVAEConfig(
        codebook_size=2**config.codebook_bits,
        embed_dim=width_of(config),
        latent_channels=config.latent_channels or width_of(config),
        temporal_downsample_factor=FRAMES,
        attn_resolutions=[len(config.encoder_multipliers) - 1],
        hidden_size=config.channels * config.encoder_multipliers[-1],
        **sizes_of(config),
    )


def width_of(config: ImageTokenizer) -> int:
    """Length of a vector of the codebook."""
    return config.code_width or 8


class ImageVQ(TiledVQ):
    """Image tokenizer: encoder, codebook, decoder."""

    def __init__(self, config: ImageTokenizer) -> None:
        super().__init__(config)
        parts = Emu3VQVAE(vq_config(config))
        self.encoder, self.quant_conv = parts.encoder, parts.quant_conv
        self.decoder, self.post_quant_conv = parts.decoder, parts.post_quant_conv
        self.quantize = Nearest(2**config.codebook_bits, width_of(config))
        self.use_groups()
        self._let_images_pass()

    @staticmethod
    def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of this network under its names: of its own repository, or of a whole model of transformers."""
        inside = {INSIDE.sub("", name): x for name, x in tensors.items() if INSIDE.match(name)}
        renamed = {}
        for official, tensor in (inside or tensors).items():
            name = official
            for pattern, new in _RULES:
                name = re.sub(pattern, new, name)
            renamed[name] = tensor.flatten(1) if name.endswith("_proj.weight") else tensor  # 1 x 1 convolutions
        return renamed

    @torch.no_grad()
    def _let_images_pass(self) -> None:
        """First weights of the layers between frames: an image goes through them as it is, nearly.

        With random ones nothing of a small tile is left behind them. Released weights take their place.
        """
        for name, layer in self.named_modules():
            if isinstance(layer, Emu3VQVAEConv3d) and "res_stack" not in name:
                weight, middle = layer.conv.weight.zero_(), layer.conv.weight.shape[3] // 2
                weight[:, :, -1, middle, middle].fill_diagonal_(1.0)  # padding stands in front of frames
                first = LINEAR * name.endswith("time_conv.0.conv") - LINEAR * (name == "quant_conv")
                nn.init.constant_(cast(Tensor, layer.conv.bias), first)

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the batch normalisations."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
        return self

    def encoded(self, patches: Tensor) -> Tensor:
        """What is looked up, (N, width, h, w), of tiles whose patches are channels."""
        net = self.encoder
        states = net.middle_block(net.down_block(net.conv_in(patches)))
        frames = net.conv_out(_swish(net.norm_out(states)))[:, :, None].expand(-1, -1, FRAMES, -1, -1)
        for layer in net.time_conv:
            frames = _swish(layer(frames))
        for layer in net.time_res_stack:
            frames = layer(frames)
        return self.quant_conv(frames)[:, :, 0]

    def decoded(self, vectors: Tensor) -> Tensor:
        """Tiles whose patches are channels, of vectors (N, width, h, w)."""
        net = self.decoder
        frames = torch.cat([self.post_quant_conv(vectors[:, :, None]), vectors[:, :, None]])
        for layer in net.time_res_stack:
            frames = layer(frames)
        for layer in net.time_conv:
            frames = _swish(layer(frames))
        states, shown = frames[:, :, 0].chunk(2)
        states = net.up_block(net.middle_block(net.conv_in(states), shown), shown)
        return net.conv_out(_swish(net.norm_out(states, shown)))


class Nearest(Codebook):
    """The code of a vector is the nearest row of the codebook."""

    def compared(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The latents, and the negative squared distance of each and every row."""
        rows = self.embedding.weight  # no product, which mixed precision would round
        pairs = zip(latents.unbind(1), rows.unbind(1), strict=True)
        return latents, -sum(((x[..., None] - row).square() for x, row in pairs), start=latents.new_zeros(()))

    def vectors_of(self, codes: Tensor) -> Tensor:
        """Vectors (N, width, h, w) of codes (N, h, w)."""
        return self.embedding(codes).permute(0, 3, 1, 2).contiguous()


def _swish(states: Tensor) -> Tensor:
    return states * states.sigmoid()
