"""Stage `encode`: image tokens of every split, an empty one too."""

from __future__ import annotations

import torch

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout, read_codes
from hermesflow.data.microworld.world import make_pairs
from hermesflow.data.pairs import write_pairs
from hermesflow.stages import encode


class Tokenizer:
    def eval(self):
        return self

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(pixels), 4, dtype=torch.long)


def test_an_empty_base_split_has_no_tokens(tmp_path, monkeypatch):
    config, layout = load_config("config/smoke.yaml"), Layout(tmp_path)
    for split in encode.SPLITS:
        write_pairs(layout.data(split), make_pairs(split, 0 if split == "base" else 3, config=config.data))
    monkeypatch.setattr(encode, "load_tokenizer", lambda folder, *, device: Tokenizer())
    encode.run(config, layout)
    ids, codes = read_codes(layout.codes("base"))
    assert ids == [] and len(codes) == 0
    assert read_codes(layout.codes("pairs"))[1].shape == (3, 1, 4)
