"""The image tokenizer against the official numerics, and its files."""

import dataclasses
import json
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hermesflow.config.sections import ImageTokenizer
from hermesflow.core.errors import ArtifactError, NotFiniteError
from hermesflow.models.codecs import image_form, to_images, to_pixels
from hermesflow.models.showo.codec import ShowOCodec, load_codec
from hermesflow.models.showo.magvit import MagVitV2

GOLDENS = Path(__file__).parents[1] / "goldens" / "magvitv2"
OFFICIAL = ImageTokenizer(
    channels=128,
    encoder_multipliers=(1, 2, 2, 4, 4),
    encoder_blocks=(4, 3, 4, 3, 4),
    decoder_multipliers=(1, 1, 2, 2, 4),
    decoder_blocks=(4, 4, 3, 4, 3),
    codebook_bits=13,
    patch_size=1,
)
SMALL = ImageTokenizer(
    channels=8,
    encoder_multipliers=(1, 2, 2),
    encoder_blocks=(1, 1, 1),
    decoder_multipliers=(1, 2, 2),
    decoder_blocks=(1, 1, 1),
    codebook_bits=6,
    patch_size=3,
)


def formula_weights(keys):
    """The random weights of the goldens; see goldens/README.md."""
    weights = {}
    for name, shape in keys.items():
        if name.startswith("quantize."):
            continue
        r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
        if len(shape) > 1:
            weights[name] = r / (r[0].numel() ** 0.5)
        else:
            weights[name] = 1 + 0.1 * r if name.endswith("weight") else 0.02 * r
    return weights


@pytest.fixture(scope="module")
def official():
    keys = json.loads((GOLDENS / "state_dict_keys.json").read_text())
    with torch.device("meta"):  # skips the default initialisation of 95 M parameters
        model = MagVitV2(OFFICIAL)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys
    quantize = MagVitV2(SMALL).quantize.__class__(13).state_dict()
    weights = formula_weights(keys) | {f"quantize.{k}": v for k, v in quantize.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


@pytest.fixture
def small():
    torch.manual_seed(0)
    return MagVitV2(SMALL).eval()


@torch.inference_mode()
def test_official_codes_and_pixels(official):
    golden = load_file(GOLDENS / "reference.safetensors")
    assert torch.equal(official.encode(golden["pixels"]), golden["codes"])
    codes = golden["decode_codes"]
    torch.testing.assert_close(official.decode(codes), golden["decoded"], rtol=1e-4, atol=1e-4)


def test_code_is_the_signs_first_channel_highest():
    quantize = MagVitV2(SMALL).quantize
    codes = torch.arange(64).view(1, 8, 8)
    assert torch.equal(quantize.codes_of(quantize.bits_of(codes)), codes)
    latents = torch.tensor([1.0, -1, -1, -1, -1, 1e-9]).view(1, 6, 1, 1)
    assert quantize.codes_of(latents).item() == 33
    assert quantize.codes_of(torch.zeros(1, 6, 1, 1)).item() == 0


@torch.inference_mode()
def test_shapes_and_patches(small):
    pixels = torch.rand(2, 3, 48, 48) * 2 - 1
    codes = small.encode(pixels)
    assert codes.shape == (2, 16) and codes.dtype == torch.int64 and codes.min() >= 0 and codes.max() < 64
    assert small.decode(codes).shape == pixels.shape
    assert small.decode(small.encode(torch.zeros(1, 3, 24, 48)), grid=(2, 4)).shape == (1, 3, 24, 48)
    with pytest.raises(ValueError, match="grid"):
        small.decode(codes[:, :15])


@torch.inference_mode()
def test_a_tile_has_the_same_codes_wherever_it_stands():
    torch.manual_seed(0)
    model = MagVitV2(dataclasses.replace(SMALL, tile_size=24, norm_groups=1)).eval()
    tiles = torch.rand(4, 3, 24, 24) * 2 - 1
    alone = model.encode(tiles)  # (4, 4)
    image = torch.cat([torch.cat([tiles[0], tiles[1]], 2), torch.cat([tiles[2], tiles[3]], 2)], 1)[None]
    codes = model.encode(image)
    assert torch.equal(codes.view(2, 2, 2, 2).transpose(1, 2).reshape(4, 4), alone)
    torch.testing.assert_close(model.decode(codes)[0, :, 24:, :24], model.decode(alone)[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(image).pixels, model.decode(codes), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="tile_size"):
        model.encode(torch.zeros(1, 3, 36, 48))


def test_gradient_reaches_the_encoder_and_forward_agrees_with_codes(small):
    pixels = torch.rand(2, 3, 48, 48) * 2 - 1
    reconstruction, _, entropy_loss, commitment_loss = small(pixels)
    torch.testing.assert_close(reconstruction, small.decode(small.encode(pixels)), rtol=1e-4, atol=1e-5)
    reconstruction.square().mean().backward()
    gradient = small.encoder.conv_in.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    assert entropy_loss.ndim == commitment_loss.ndim == 0


def test_quantizer_losses():
    quantize = MagVitV2(SMALL).quantize
    balanced = torch.ones(2, 6, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1) * 100
    bits, latents, entropy, commitment = quantize(balanced)
    assert torch.equal(bits.sign(), balanced.sign()) and latents.abs().max().item() == pytest.approx(1.0)
    sure = 1 / (1 + np.exp(-4))
    spent = -sure * np.log(sure) - (1 - sure) * np.log(1 - sure)
    assert entropy.item() == pytest.approx(spent - np.log(2), abs=1e-4)  # nearly sure, used half of the time: the best
    assert commitment.item() == pytest.approx(0.0, abs=1e-9)
    _, _, entropy, _ = quantize(torch.full((2, 6, 1, 1), 100.0))
    assert entropy.item() == pytest.approx(0.0, abs=1e-4)  # always the same code


def test_pixels_and_images_round_trip():
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 3), dtype=np.uint8)
    pixels = to_pixels(images)
    assert pixels.shape == (2, 3, 6, 9) and pixels.min() >= -1 and pixels.max() <= 1
    assert np.array_equal(to_images(pixels), images)
    assert to_images(torch.full((1, 3, 1, 1), 7.0)).item(0) == 255


@torch.inference_mode()
def test_latents_and_pixels_that_are_not_finite_are_refused(small):
    """Each comparison of nan with 0 is false: such an image had code 0 everywhere."""
    pixels = torch.zeros(3, 3, 48, 48)
    pixels[1, 0, 5, 5] = math.nan  # the convolutions spread it
    with pytest.raises(NotFiniteError, match="a latent of image 1 is nan"):
        small.encode(pixels)
    tiled = MagVitV2(replace(SMALL, tile_size=24)).eval()
    with pytest.raises(NotFiniteError, match="a latent of image 1 is nan"):
        tiled.encode(pixels)
    with pytest.raises(NotFiniteError, match="image 1 made of codes is nan"):
        to_images(pixels)


@torch.inference_mode()
def test_files_round_trip_and_are_checked(small, tmp_path):
    ShowOCodec(small, 48).save(tmp_path)
    pixels, loaded = torch.rand(1, 3, 48, 48), load_codec(tmp_path, device="cpu")
    assert torch.equal(loaded.network.encode(pixels), small.encode(pixels))
    assert (loaded.image_size, loaded.seen, loaded.generated) == (48, loaded.generated, image_form(48, SMALL))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["family"] == "showo"
    other = config | {"image_tokenizer": config["image_tokenizer"] | {"channels": 16}}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ArtifactError, match=r"config\.json"):
        load_codec(tmp_path, device="cpu")


def test_pickled_weights_are_refused(small, tmp_path):
    ShowOCodec(small, 48).save(tmp_path)
    for legacy in (False, True):
        torch.save(small.state_dict(), tmp_path / "model.safetensors", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ArtifactError, match=r"pickle.*safetensors"):
            load_codec(tmp_path, device="cpu")
