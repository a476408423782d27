"""Janus' image tokenizer: pixels to codes of a codebook of unit-length vectors, and back.

Encoder, decoder and tensor names are those of transformers' JanusVQVAE; the look-up is the official one, which takes
the direction of vectors alone (JanusVQVAE.encode does not, and finds other codes).
Source: LlamaGen (Sun et al. 2024, arXiv 2406.06525) section 2.1; Janus (arXiv 2410.13848).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.janus.released import vq_names
from hermesflow.models.vq import Codebook, TiledVQ, sizes_of


def vq_config(config: ImageTokenizer, **of_model: Any) -> JanusVQVAEConfig:
    """The same sizes for transformers.

    Args:
        config: sizes of the image tokenizer.
        of_model: what the parts of the model around it need.

    Raises:
        ConfigError: sizes that JanusVQVAE does not have.
    """
    return JanusVQVAEConfig(
        embed_dim=config.code_width or 8,
        num_embeddings=2**config.codebook_bits,
        latent_channels=config.latent_channels or 256,
        **sizes_of(config),
        **of_model,
    )


class ImageVQ(TiledVQ):
    """Image tokenizer: encoder, codebook, decoder."""

    def __init__(self, config: ImageTokenizer) -> None:
        super().__init__(config)
        parts = JanusVQVAE(vq_config(config))
        self.encoder, self.quant_conv = parts.encoder, parts.quant_conv
        self.decoder, self.post_quant_conv = parts.decoder, parts.post_quant_conv
        self.quantize = Directions(2**config.codebook_bits, config.code_width or 8)
        self.use_groups()

    @staticmethod
    def from_released(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of this network among those of a whole released model."""
        return vq_names(tensors)

    def encoded(self, patches: Tensor) -> Tensor:
        """What is looked up, (N, width, h, w), of tiles whose patches are channels."""
        return self.quant_conv(self.encoder(patches))

    def decoded(self, vectors: Tensor) -> Tensor:
        """Tiles whose patches are channels, of vectors (N, width, h, w)."""
        return self.decoder(self.post_quant_conv(vectors))


class Directions(Codebook):
    """The code of a vector is the row of the codebook that points most nearly its way."""

    def compared(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of length 1, and the cosine of each and every row."""
        unit = F.normalize(latents, dim=1)
        return unit, torch.einsum("nchw,kc->nhwk", unit, F.normalize(self.embedding.weight, dim=1))

    def vectors_of(self, codes: Tensor) -> Tensor:
        """Unit-length vectors (N, width, h, w) of codes (N, h, w)."""
        return F.normalize(self.embedding(codes), dim=-1).permute(0, 3, 1, 2).contiguous()
