"""Released weights: pickles that are read without running code, the strict fit, and the stages that take them."""

import csv
import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hermesflow.config.experiment import as_plain
from hermesflow.config.load import load_config
from hermesflow.config.sections import ImageTokenizer, Source
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout
from hermesflow.models.backbone import load_codec, load_model, meta_codec, meta_model
from hermesflow.models.conversion import converted, read_pickle
from hermesflow.models.showo.magvit import MagVitV2
from tests.support.hub_server import HubServer
from tests.support.one_process import one_process
from tests.support.phi_tokenizer import phi_tokenizer, tokenizer_files, write_tokenizer
from tests.support.showo_golden import GOLDENS, reference

TOKENIZER = ImageTokenizer(
    channels=8,
    encoder_multipliers=(1, 2),
    encoder_blocks=(1, 1),
    decoder_multipliers=(1, 2),
    decoder_blocks=(1, 1),
    codebook_bits=8,
    patch_size=3,
)
CONFIGS = GOLDENS.parents[1] / "config"


def pickled(tensors, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path, **options)
    return Source(folder=str(path.parent), files={path.name: None})


class Linear(torch.nn.Linear):
    """A model of two tensors."""

    def __init__(self):
        super().__init__(3, 2)


WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}


# reading and fitting


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_pickle_is_converted_once(tmp_path, options):
    source = pickled(WEIGHTS, tmp_path / "in" / "pytorch_model.bin", **options)
    path = converted(source, Linear(), cache=tmp_path / "cache")
    found = load_file(path)
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)
    before = path.stat().st_mtime_ns
    assert converted(source, Linear(), cache=tmp_path / "cache") == path
    assert path.stat().st_mtime_ns == before
    pickled({**WEIGHTS, "bias": torch.ones(2)}, tmp_path / "in" / "pytorch_model.bin", **options)
    other = converted(source, Linear(), cache=tmp_path / "cache")
    assert other != path and torch.equal(load_file(other)["bias"], torch.ones(2))


def test_safetensors_are_taken_as_they_are_and_parts_are_joined(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    source = Source(folder=str(tmp_path), files={"model.safetensors": None})
    assert converted(source, Linear(), cache=tmp_path / "cache") == tmp_path / "model.safetensors"
    for name in WEIGHTS:
        torch.save({name: WEIGHTS[name]}, tmp_path / f"{name}.bin")
    parts = Source(folder=str(tmp_path), files={"weight.bin": None, "bias.bin": None})
    assert load_file(converted(parts, Linear(), cache=tmp_path / "cache")).keys() == WEIGHTS.keys()
    torch.save(WEIGHTS, tmp_path / "bias.bin")  # files come in the order of their names
    with pytest.raises(ArtifactError, match=r"weight\.bin: `weight` is in an earlier file too"):
        converted(parts, Linear(), cache=tmp_path / "cache")


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    pickled({**WEIGHTS, "bias": Code()}, tmp_path / "a.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ArtifactError, match=r"a\.bin: refused: .*system.*could run code"):
        read_pickle(tmp_path / "a.bin")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "b.bin").write_bytes(pickle.dumps(Code()))
    with pytest.raises(ArtifactError, match=r"b\.bin: refused"):
        read_pickle(tmp_path / "b.bin")
    assert not (tmp_path / "ran").exists()


def test_damaged_and_other_files_are_named(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.bin")
    whole = (tmp_path / "a.bin").read_bytes()
    for content in (whole[:-200], b"", b"version https://git-lfs"):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"a\.bin"):
            read_pickle(tmp_path / "a.bin")
    torch.save({"model": WEIGHTS}, tmp_path / "a.bin")
    with pytest.raises(ArtifactError, match="plain state dict"):
        read_pickle(tmp_path / "a.bin")
    (tmp_path / "a.safetensors").write_bytes(b"123")
    source = Source(folder=str(tmp_path), files={"a.safetensors": None})
    with pytest.raises(ArtifactError, match=r"a\.safetensors: truncated or not safetensors"):
        converted(source, Linear(), cache=tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300], ids=["nan", "inf", "too wide"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.bin"])
def test_weights_that_are_not_finite_in_the_model_are_refused(tmp_path, file, value):
    tensors = {**WEIGHTS, "bias": torch.tensor([0.0, value], dtype=torch.float64)}
    (save_file if file.endswith("s") else torch.save)(tensors, tmp_path / file)
    with pytest.raises(ArtifactError, match=rf"{file}: tensor `bias` holds 1 values .* float32"):
        converted(Source(folder=str(tmp_path), files={file: None}), Linear(), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_first_tensor_that_does_not_fit_is_named(tmp_path):
    wrong = {"weight": torch.zeros(3, 2), "scale": torch.zeros(1), "zero": torch.zeros(1)}
    source = pickled(wrong, tmp_path / "in" / "a.bin")
    with pytest.raises(ArtifactError) as caught:
        converted(source, Linear(), cache=tmp_path / "cache")
    told = str(caught.value)
    for part in ("a.bin", "tensors missing 1, first `bias`", "unexpected 2, first `scale`"):
        assert part in told
    assert "first `weight`: [3, 2] instead of [2, 3]" in told and "\n" not in told
    assert not (tmp_path / "cache").exists()


# the released architecture


@pytest.mark.parametrize(("image_size", "tokens"), [(512, 1024), (256, 256)])
def test_models_of_the_paper_s_config_have_the_official_names_and_shapes(tmp_path, image_size, tokens):
    config = load_config(CONFIGS / "showo.yaml")
    folder = str(write_tokenizer(tmp_path, phi_tokenizer()))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, image_size=image_size),
        language_model=dataclasses.replace(config.language_model, text_tokenizer=folder),
    )
    model = meta_model(config)
    assert shapes_of(model) == json.loads((GOLDENS / "showo_1.3b_state_dict_keys.json").read_text())
    assert (model.num_image_tokens, model.ids.mask, model.ids.first_code) == (tokens, 58497, 50305)
    assert shapes_of(meta_codec(config).network) == json.loads(
        (GOLDENS / "magvitv2" / "state_dict_keys.json").read_text()
    )


def shapes_of(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


# from the hub to the stages' files


STAGES = ("tokenizer", "base --seed 0", "base --seed 1")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A tiny Show-o and MAGVITv2 with official names on a hub, and a config that starts from them."""
    folder = tmp_path_factory.mktemp("released")
    config = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    del config["tokenizer_training"], config["base_training"]
    config["image_tokenizer"] = as_plain(TOKENIZER)
    config["language_model"].update(hidden_size=128, layers=4, heads=4, intermediate_size=512)
    config["language_model"].update(
        caption_prompt="USER: \nwhat? ASSISTANT:", question_template="USER: \n{} ASSISTANT:"
    )
    showo = load_file(GOLDENS / "showo_tiny" / "model.safetensors")
    torch.manual_seed(0)
    magvit = MagVitV2(TOKENIZER).state_dict()
    files = {}
    for name, tensors in (("show-o", showo), ("magvitv2", magvit)):
        torch.save(tensors, folder / f"{name}.bin")
        files[name] = {"pytorch_model.bin": (folder / f"{name}.bin").read_bytes(), "config.json": b"{}"}
    files["phi"] = tokenizer_files(phi_tokenizer(words=474))
    with HubServer() as hub:
        sources = {
            name: {
                "repo": f"owner/{name}",
                "revision": hub.add(f"owner/{name}", every),
                "files": {k: hashlib.sha256(v).hexdigest() for k, v in every.items() if k != "config.json"},
            }
            for name, every in files.items()
        }
        config["weights"] = {"language_model": sources["show-o"], "image_tokenizer": sources["magvitv2"]}
        config["language_model"]["text_tokenizer"] = sources["phi"]
        (folder / "released.yaml").write_text(yaml.safe_dump(config))
        where = f"--config {folder / 'released.yaml'}"
        stages = [f"{stage} {where} --results {folder / 'results'}" for stage in STAGES]
        for lines, offline in (([f"fetch {where}"], {}), (stages, {"HF_HUB_OFFLINE": "1"})):
            environment = hub.environment(folder / "cache", **offline)
            done = subprocess.run(one_process(lines), capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
    return folder, showo, magvit


def test_stages_write_the_files_they_always_write(released):
    folder, _, magvit = released
    layout = Layout(folder / "results" / "smoke")
    base = [layout.checkpoint(seed, "base") / "model" for seed in (0, 1)]
    names = {"model.safetensors", "config.json", "history.csv", "manifest.json"}
    assert {path.name for path in layout.tokenizer.iterdir()} == names
    for one in base:
        assert {path.name for path in one.iterdir()} == {*names, "tokenizer.json"}
        assert list(csv.reader((one / "history.csv").open())) == [["step"]]
    for name in {*names, "tokenizer.json"} - {"manifest.json"}:
        assert (base[0] / name).read_bytes() == (base[1] / name).read_bytes()
    manifest = json.loads((base[1] / "manifest.json").read_text())
    assert manifest["seed"] == 1
    assert len(manifest["inputs"]) == 1
    assert manifest["config"]["weights.language_model"]["files"].keys() == {"pytorch_model.bin"}
    assert len(list(layout.weights.iterdir())) == 2  # the two seeds share one conversion
    codec = load_codec(layout.tokenizer, device="cpu")
    assert all(torch.equal(tensor, magvit[name]) for name, tensor in codec.network.state_dict().items())


@torch.inference_mode()
def test_released_weights_give_the_official_logits_after_the_conversion(released):
    folder, showo, _ = released
    layout = Layout(folder / "results" / "smoke")
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu")
    assert all(torch.equal(tensor, showo[name]) for name, tensor in model.state_dict().items())
    assert (model.num_image_tokens, model.ids.pad, model.ids.mask) == (64, 512, 778)
    tensors, _ = reference()
    ids = torch.cat([tensors["t2i.input_ids"], tensors["t2i.uncond_input_ids"]])
    logits = model.head(model.hidden(ids, tensors["t2i.attention_allowed"]))[:, -65:-1]
    torch.testing.assert_close(logits, tensors["t2i.logits_image_positions"], atol=1e-5, rtol=1e-5)


def test_stages_refuse_weights_of_another_model(released, tmp_path):
    folder, _, _ = released
    config = yaml.safe_load((folder / "released.yaml").read_text())
    config["language_model"]["layers"] = 3
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    where = ["--config", str(tmp_path / "other.yaml"), "--results", str(tmp_path / "results")]
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "hermesflow", "base", "--seed", "0", *where]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "first `showo.model.layers.3." in done.stderr
    assert not (tmp_path / "results" / "smoke" / "seed0" / "base" / "model" / "model.safetensors").exists()
