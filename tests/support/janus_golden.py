"""The tiny model whose official outputs are in tests/goldens/janus_tiny; its weights are a formula."""

import json
import zlib
from functools import cache
from math import prod
from pathlib import Path

import torch
from safetensors.torch import load_file

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.janus.model import Janus
from hermesflow.models.janus.prompting import TokenIds
from hermesflow.models.janus.released import model_names
from hermesflow.models.janus.vq import vq_config
from hermesflow.models.next_token.base import Wording

GOLDENS = Path(__file__).parents[1] / "goldens" / "janus_tiny"
IDS = TokenIds(bos=0, eos=1, pad=2, boi=3, eoi=4, image=5, vocabulary=160)
VQ = ImageTokenizer(
    channels=32,
    encoder_multipliers=(1, 1, 2, 2, 4),
    encoder_blocks=(2, 2, 2, 2, 2),
    decoder_multipliers=(1, 1, 2, 2, 4),
    decoder_blocks=(3, 3, 3, 3, 3),
    codebook_bits=9,
    patch_size=1,
    latent_channels=32,
)


class NumberTokenizer:
    """Texts are numbers: the tokens of the goldens were recorded as ids."""

    size, boundary, boundary_token = 160, 1, "1"

    def encode(self, texts):
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def id_of(self, token):
        return None


def text_of(ids):
    return NumberTokenizer().decode(ids.tolist() if isinstance(ids, torch.Tensor) else ids)


@cache
@torch.inference_mode(False)  # kept for tests that need gradients, whichever test asks first
def reference():
    return load_file(GOLDENS / "reference.safetensors"), json.loads((GOLDENS / "reference.json").read_text())


def drawn(name, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def official_weights(*, policy=False):
    """All tensors under their official names."""
    weights = {}
    for name, shape in reference()[1]["shapes"].items():
        x = drawn(name, shape)
        if len(shape) == 1 and "norm" in name and name.endswith(".weight"):
            x = 1 + 0.1 * x
        elif len(shape) <= 1:
            x = 0.02 * x
        else:
            x = x / prod(shape[1:]) ** 0.5
        if policy and not name.startswith("gen_vision_model."):
            x = x + 0.001 * drawn(f"policy:{name}", shape)
        weights[name] = x
    return weights


def golden_model(*, policy=False, before=(11, 12, 13)):
    """With all parts trained, as the recorded gradients are, but the image tokenizer."""
    from transformers import JanusConfig, JanusVisionConfig, LlamaConfig

    text = LlamaConfig(
        vocab_size=160,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=False,
    )
    vision = JanusVisionConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        num_image_tokens=16,
        projection_dim=96,
    )
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq_config(VQ, projection_dim=96, image_token_embed_dim=96),
        image_token_id=IDS.image,
        tie_word_embeddings=False,
    )
    wording = Wording(
        caption_prompt="21 22 23 24", question_template="{}", text_before_image=text_of(before), max_text_tokens=32
    )
    model = Janus(config, NumberTokenizer(), IDS, wording)
    model.load_state_dict(model_names(official_weights(policy=policy)), strict=True)
    return model.eval()
