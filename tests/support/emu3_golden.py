"""The tiny model whose official outputs are in tests/goldens/emu3_tiny; its weights are a formula."""

import base64
import json
import zlib
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from hermesflow.config.sections import ImageTokenizer
from hermesflow.models.emu3.model import Emu3
from hermesflow.models.emu3.prompting import TokenIds
from hermesflow.models.emu3.released import IMAGES, RANKS
from hermesflow.models.emu3.vq import ImageVQ, vq_config
from hermesflow.models.next_token.base import Wording
from tests.support.janus_golden import NumberTokenizer, text_of

GOLDENS = Path(__file__).parents[1] / "goldens" / "emu3_tiny"
IDS = TokenIds(
    pad=320,
    image=323,
    eol=523,
    eof=524,
    bos=526,
    eos=527,
    img=528,
    boi=529,
    eoi=530,
    first_code=531,
    codes=256,
    vocabulary=787,
)
GRID = (3, 4)
VQ = ImageTokenizer(
    channels=32,
    encoder_multipliers=(1, 1, 1, 2),
    encoder_blocks=(1, 1, 1, 1),
    decoder_multipliers=(1, 1, 1, 2),
    decoder_blocks=(2, 2, 2, 2),
    codebook_bits=8,
    code_width=4,
    patch_size=1,
)


class Numbers(NumberTokenizer):
    """Texts are numbers, but for the size of an image."""

    size, boundary, boundary_token = 787, 527, "527"

    def encode(self, texts):
        return [[51, 42, 52] if text == "3*4" else ids for text, ids in zip(texts, self._numbers(texts), strict=True)]

    def _numbers(self, texts):
        return super().encode(["" if text == "3*4" else text for text in texts])


@cache
@torch.inference_mode(False)  # kept for tests that need gradients, whichever test asks first
def reference():
    return load_file(GOLDENS / "reference.safetensors"), json.loads((GOLDENS / "reference.json").read_text())


def official_weights(part, *, policy=False):
    """All tensors of `llm` or `vq` under their official names."""
    facts, weights = reference()[1], {}
    for name, shape in facts["weights"][f"{part}_names_shapes"].items():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if name.endswith("num_batches_tracked"):
            x = torch.tensor(0)
        elif x.ndim >= 2:
            x = x / (x.numel() / shape[0]) ** 0.5
        elif name.endswith("running_var"):
            x = 1 + 0.1 * x.abs()
        else:
            x = 1 + 0.1 * x if name.endswith("weight") else 0.02 * x
        weights[name] = x
    if policy:
        generator = torch.Generator().manual_seed(1234)
        for name in facts["trainable_names_sorted"]:
            weights[name] = weights[name] + 0.001 * torch.randn(weights[name].shape, generator=generator)
    return weights


def tokenizer_files(*, words=None, codes=256):
    """The two files of the official text tokenizer: the recorded one, or one of so many tokens of text."""
    ranks = bytes(reference()[0]["tiktoken_file_bytes"].tolist())
    if words is not None:
        tokens = [*(bytes([i]) for i in range(256)), *(i.to_bytes(4, "big") for i in range(256, words))]
        ranks = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
    images = [
        "<|image token|>",
        "<|image start|>",
        "<|image end|>",
        *(f"<|visual token {i:06d}|>" for i in range(codes)),
    ]
    return {RANKS: ranks, IMAGES: "".join(f"{token}\n" for token in images).encode()}


def write_tokenizer(folder, **sizes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files(**sizes).items():
        (folder / name).write_bytes(content)
    return folder


def prompt_ids(kind):
    """Text of a recorded prompt as ids: what stands between bos and boi, and behind eoi."""
    ids = reference()[1]["prompts"][f"{kind}_ids"]
    end = ids.index(IDS.eoi) + 1 if IDS.eoi in ids else len(ids)
    return ids[1 : ids.index(IDS.boi)], ids[end:]


def golden_model(*, policy=False, negative="negative"):
    from transformers import Emu3Config, Emu3TextConfig

    text = Emu3TextConfig(
        vocab_size=787,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=320,
        bos_token_id=526,
        eos_token_id=527,
        attention_dropout=0.0,
    )
    before, asked = prompt_ids("understanding")
    wording = Wording(
        caption_prompt=text_of(asked),
        question_template="{}",
        text_before_image=text_of(before),
        negative_prompt=text_of(prompt_ids(negative)[0]),
        max_text_tokens=64,
    )
    config = Emu3Config(text_config=text, vq_config=vq_config(VQ), vocabulary_map=IDS.vocabulary_map())
    model = Emu3(config, Numbers(), IDS, wording, GRID)
    model.load_state_dict(model.from_released(official_weights("llm", policy=policy)), strict=True)
    return model.eval()


def golden_tokenizer():
    network = ImageVQ(VQ).eval()
    network.load_state_dict(network.from_released(official_weights("vq")), strict=True)
    return network
