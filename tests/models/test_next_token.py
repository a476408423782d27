"""What models that write token by token have in common beside the contract: files, tiles, adapters, precision."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from hermesflow.config.load import load_config
from hermesflow.config.sections import ImageSampling, Lora, Source, VisionTower
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.models import backbone
from hermesflow.models.conversion import converted
from hermesflow.training.lora import add_adapters
from tests.support import emu3_golden, janus_golden

SMOKE = load_config(Path(__file__).parents[2] / "config" / "smoke.yaml")
SETTINGS = ImageSampling(n=1, steps=1, guidance=2.0, temperature=0.0, temperature_schedule="linear")
LANGUAGE = {
    "emu3": {"hidden_size": 64, "layers": 2, "heads": 4, "key_value_heads": 2, "intermediate_size": 160},
    "janus": {
        **{"hidden_size": 96, "layers": 3, "heads": 4, "intermediate_size": 192, "vocabulary": 160},
        "vision": VisionTower(hidden_size=64, layers=3, heads=4, intermediate_size=256),
    },
}


@dataclass(frozen=True)
class Family:
    """A family, and what was recorded of it."""

    name: str
    golden: ModuleType
    image_size: int
    """Of four by four tokens."""
    decoder: str
    """Name of the part that adapters are in."""

    def config(self, **keys):
        """With the sizes of the recorded model."""
        language = replace(SMOKE.language_model, family=self.name, **{**LANGUAGE[self.name], **keys})
        data = replace(SMOKE.data, image_size=self.image_size)
        return replace(SMOKE, data=data, image_tokenizer=self.golden.VQ, language_model=language)

    def network(self, settings):
        """The image tokenizer."""
        return backbone.part(self.name, "vq").ImageVQ(settings)

    def official_weights(self):
        return self.golden.official_weights(*(["llm"] if self.name == "emu3" else []))


FAMILIES = [Family("emu3", emu3_golden, 32, "text_model"), Family("janus", janus_golden, 64, "language_model")]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


def test_weights_of_another_size_are_refused(family, tmp_path):
    save_file(family.official_weights(), tmp_path / "weights.safetensors")
    source = Source(folder=str(tmp_path), files={"weights.safetensors": None})
    with pytest.raises(ArtifactError, match=rf"{family.decoder}\.embed_tokens"):
        converted(source, backbone.meta_model(family.config(vocabulary=4096)), cache=tmp_path / "converted")


def test_a_damaged_description_is_refused(family, tmp_path):
    model = backbone.new_model(family.config(), seed=1)
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="same checkpoint"):
        backbone.load_model(tmp_path, device="cpu")


def test_sizes_that_the_codebook_tokenizer_does_not_have_are_refused(family):
    own = family.golden.VQ
    blocks, multipliers = (1, *own.encoder_blocks[1:-1], 2), (*own.decoder_multipliers[:-1], 8)
    for keys in ({"channels": 48}, {"encoder_blocks": blocks}, {"decoder_multipliers": multipliers}):
        with pytest.raises(ConfigError, match="image_tokenizer"):
            family.network(replace(own, **keys))


@torch.inference_mode()
def test_tiles_are_coded_one_by_one(family):
    network = family.network(SMOKE.image_tokenizer).eval()
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = network.encode(pixels)
    assert codes.shape == (2, 16)
    tile = pixels[1:, :, 12:24, 36:48]  # second row, last column
    assert torch.equal(network.encode(tile), codes[1:, 7:8])
    torch.testing.assert_close(
        network.decode(codes)[1:, :, 12:24, 36:48], network.decode(codes[1:, 7:8]), atol=1e-5, rtol=0
    )


def test_adapters_alone_are_trained_where_there_are_any(family):
    model = backbone.new_model(family.config(), seed=1)
    add_adapters(model, Lora(rank=2, alpha=4.0, targets=("q_proj", "down_proj")), seed=0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name and f".{family.decoder}." in name for name in trained)
    model.image_logps(["a red circle"], torch.zeros(1, 16, dtype=torch.int64), None).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained.keys()


def test_recomputed_activations_give_the_same_gradients(family):
    model = backbone.new_model(family.config(), seed=1)
    codes = torch.arange(32).reshape(2, 16)

    def gradients():
        model.zero_grad()
        model.image_logps(["a red circle"], codes, None, owners=torch.zeros(2, dtype=torch.int64)).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    kept = gradients()
    backbone.recompute_activations(model)
    assert all(torch.equal(*pair) for pair in zip(kept, gradients(), strict=True))


def test_weights_of_half_the_size_keep_the_answers(family, tmp_path):
    backbone.new_model(family.config(), seed=1).save(tmp_path)
    logps = []
    for precision in ("no", "bf16"):
        model = backbone.load_model(tmp_path, device="cpu", precision=precision)
        seen = torch.randint(256, (1, *model.seen.shape), generator=torch.Generator().manual_seed(0))
        seen = seen if model.seen.kind == "codes" else seen.to(torch.uint8)
        with torch.inference_mode():
            image = model.generate_images(["a circle"], settings=SETTINGS, generators=[torch.Generator()])
            logps.append(model.text_logps(seen, [model.caption_prompt], ["a red circle"]))
        assert image.shape == (1, 16) and logps[-1].dtype == torch.float32
    torch.testing.assert_close(logps[0], logps[1], rtol=0.02, atol=0)
