"""Names of released weights: those of the official code to those of transformers, which are the model's.

Source: deepseek-ai/Janus (janus/models); transformers' conversion script.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

VQ = "model.vqmodel."
_TOWER = "model.vision_model."
_RULES = [
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^gen_aligner\.", "model.generation_aligner."),
    (r"^aligner\.", "model.aligner."),
    (r"^gen_embed\.", "model.generation_embeddings."),
    (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"^gen_head\.", "model.generation_head."),
    (r"^gen_vision_model\.", VQ),
    (r"^vision_model\.vision_tower\.", _TOWER),
    (r"(aligner)\.layers\.0\.", r"\1.fc1."),
    (rf"^({re.escape(VQ)}encoder)\.conv_blocks\.", r"\1.down."),
    (rf"^({re.escape(VQ)}decoder)\.conv_blocks\.", r"\1.up."),
    (rf"^({re.escape(VQ)}.*)\.res\.", r"\1.block."),
    (r"\.mid\.0\.", ".mid.block_1."),
    (r"\.mid\.1\.", ".mid.attn_1."),
    (r"\.mid\.2\.", ".mid.block_2."),
    (rf"^{re.escape(_TOWER)}pos_embed$", f"{_TOWER}embeddings.position_embedding.weight"),
    (rf"^{re.escape(_TOWER)}patch_embed\.proj\.", f"{_TOWER}embeddings.patch_embedding."),
    (rf"^{re.escape(_TOWER)}norm\.", f"{_TOWER}post_layernorm."),
    (rf"^{re.escape(_TOWER)}blocks\.", f"{_TOWER}encoder.layers."),
    (rf"^({re.escape(_TOWER)}.*)\.norm([12])\.", r"\1.layer_norm\2."),
    (rf"^({re.escape(_TOWER)}.*)\.attn\.proj\.", r"\1.self_attn.projection_layer."),
]
_DROPPED = (".attn_pool.", ".codebook_used")


def model_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the model's names; what stands under them already is left as it is.

    Query, key and value of the tower are one tensor in the official code; its attention pool is used nowhere.
    """
    renamed = {}
    for official, tensor in tensors.items():
        if any(part in official for part in _DROPPED):
            continue
        name = official
        for pattern, new in _RULES:
            name = re.sub(pattern, new, name)
        # behind the first layer of an aligner the odd ones are activations
        name = re.sub(r"(aligner)\.layers\.(\d+)\.", lambda m: f"{m[1]}.hidden_layers.{int(m[2]) // 2 - 1}.", name)
        if name.endswith("position_embedding.weight"):
            tensor = tensor.reshape(tensor.shape[-2:])
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".self_attn.{part}_proj.")] = piece.clone()
        else:
            renamed[name] = tensor
    return renamed


def vq_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the image tokenizer alone, under its names; from a file of its own as they are."""
    named = {name.removeprefix(VQ): x for name, x in model_names(tensors).items() if name.startswith(VQ)}
    return named or dict(tensors)
