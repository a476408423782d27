"""The tiny model whose official outputs are in tests/goldens/showo_tiny, and small random models."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from hermesflow.models.showo.model import Shape, ShowO
from hermesflow.models.text_tokenizers import word_tokenizer

GOLDENS = Path(__file__).parents[1] / "goldens"
CAPTIONS = ("raccoon", "cat", "")
QUESTION = "question"
TINY = Shape(
    hidden_size=128,
    layers=4,
    heads=4,
    intermediate_size=512,
    partial_rotary_factor=0.5,
    rope_theta=1e4,
    layer_norm_eps=1e-5,
    max_text_tokens=32,
    num_image_tokens=64,
    codebook_size=256,
)


class TableTokenizer:
    """Gives recorded token ids for names: the text tokenizer of the goldens was not recorded."""

    size = 512
    boundary = 0
    boundary_token = "end"

    def __init__(self, table):
        self.table = {name.strip(): list(ids) for name, ids in table.items()}

    def encode(self, texts):
        return [self.table[text.strip()] for text in texts]

    def decode(self, ids):
        return " ".join(map(str, ids))

    def save(self, path):
        Path(path).write_text(json.dumps(self.table))


@cache
@torch.inference_mode(False)  # kept for tests that need gradients, whichever test asks first
def reference():
    tensors = load_file(GOLDENS / "showo_tiny" / "reference.safetensors")
    return tensors, json.loads((GOLDENS / "showo_tiny" / "reference.json").read_text())


def golden_model():
    tensors, _ = reference()
    table = {}
    for name, row in zip(CAPTIONS, tensors["t2i.input_ids"].tolist(), strict=True):
        text = [i for i in row[:33] if i != 512]
        table[name] = text[2:-1]  # without <|t2i|>, sot and eot
    table[QUESTION] = tensors["mmu.input_ids"][0, 68:].tolist()
    model = ShowO(TINY, TableTokenizer(table), caption_prompt=QUESTION, question_template="{}")
    model.load_state_dict(load_file(GOLDENS / "showo_tiny" / "model.safetensors"), strict=True)
    return model.eval()


def golden_image():
    """The image of the recorded caption prompt, (1, 64) codes."""
    return reference()[0]["mmu.input_ids"][:, 2:66] - 522


def random_model(seed=0, **changes):
    """Weights large enough that a wrong mask or position shows in the outputs."""
    words = [f"w{i}" for i in range(20)]
    sizes = {
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "intermediate_size": 64,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1e4,
        "layer_norm_eps": 1e-5,
        "max_text_tokens": 16,
        "num_image_tokens": 9,
        "codebook_size": 16,
    }
    model = ShowO(
        Shape(**{**sizes, **changes}), word_tokenizer(words), caption_prompt="w0 w1", question_template="w2 {}"
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.3 if parameter.ndim > 1 else parameter + noise * 0.1)
    return model.eval()
