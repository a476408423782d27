import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.core import files
from hermesflow.core.errors import ArtifactError
from hermesflow.core.images import ImageForm, as_tensor, read_form, read_images, write_images

CODES = ImageForm("codes", (4,), "uint16")


def test_atomic_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "deep" / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_json_is_the_same_bytes_for_the_same_content(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    files.write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "c.json", float("nan"))


def test_a_number_that_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"a\.json: `value/rows/1/fid` is nan or infinite"):
        files.write_json(tmp_path / "a.json", {"rows": [{"fid": 1.0}, {"fid": float("inf")}]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), None])
def test_columns_of_numbers_are_refused_with_the_record_when_written_and_when_read(tmp_path, wrong):
    table = pd.DataFrame({"id": ["p1", "p2"], "score": [0.5, wrong]})
    message = r"t\.parquet: `score` is nan, infinite or missing in 1 of 2 records, first in \{'id': 'p2'"
    with pytest.raises(ArtifactError, match=message):
        files.write_table(tmp_path / "t.parquet", table, numbers=["score"])
    assert not (tmp_path / "t.parquet").exists()
    files.write_table(tmp_path / "t.parquet", table)
    assert len(files.read_table(tmp_path / "t.parquet", ["score"])) == 2
    with pytest.raises(ArtifactError, match=message):
        files.read_table(tmp_path / "t.parquet", ["id"], numbers=["score"])


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ArtifactError, match=r"w\.safetensors.* tensor `b` holds 1 values"):
        files.write_weights(tmp_path / "w.safetensors", {"a": torch.ones(2), "b": torch.tensor([0.0, float("nan")])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "dtype", "value"),
    [
        ("codes", "uint16", 65536),
        ("codes", "uint16", -1),
        ("pixels", "uint8", 0.5),
        ("latents", "float16", 1e6),
        ("latents", "float16", float("nan")),
        ("latents", "float32", float("-inf")),
    ],
)
def test_images_whose_values_do_not_survive_their_form_are_named(tmp_path, kind, dtype, value):
    images = np.zeros((3, 1, 2), dtype=np.int64 if kind == "codes" else np.float64)
    images[1, 0, 1] = value
    with pytest.raises(ArtifactError, match=rf"image `p1` holds {value}.*, which is no {dtype}"):
        write_images(tmp_path / "i.npy", ["p0", "p1", "p2"], images, ImageForm(kind, (2,), dtype))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_tables_come_back_and_columns_are_checked(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    table = pd.DataFrame({"id": ["p1", "p2"], "score": [0.1, 1 / 3]})
    files.write_table(path, table)
    pd.testing.assert_frame_equal(files.read_table(path, ["id", "score"]), table)
    with pytest.raises(ArtifactError, match=r"t\..*`?\['kind'\]"):
        files.read_table(path, ["id", "kind"])


@pytest.mark.parametrize("content", [b"", b"PAR1 no more"])
def test_broken_table_names_file_and_mend(tmp_path, content):
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"t\.parquet.*run snakemake again"):
        files.read_table(path, ["id"])


@pytest.fixture
def codes(tmp_path):
    path = tmp_path / "images.npy"
    write_images(path, ["p1", "p2"], np.arange(2 * 3 * 4).reshape(2, 3, 4), CODES)
    return path


def test_codes_come_back_by_id(codes):
    ids, stored = read_images(codes)
    assert ids == ["p1", "p2"]
    assert stored.dtype == np.uint16
    assert stored[1, 2, 3] == 23
    assert as_tensor(stored).dtype == torch.int64


def test_truncated_token_file_is_refused(codes):
    os.truncate(codes, codes.stat().st_size - 8)
    with pytest.raises(ArtifactError, match=r"images\.npy.*run snakemake again"):
        read_images(codes)


def test_one_changed_token_is_noticed(codes):
    content = bytearray(codes.read_bytes())
    content[-1] ^= 1
    codes.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"images\.npy.*sha256 differs"):
        read_images(codes)


def test_missing_index_is_refused(codes):
    codes.with_suffix(".json").unlink()
    with pytest.raises(ArtifactError, match=r"images\.json"):
        read_images(codes)


@pytest.mark.parametrize("ids", [["p1"], ["p1", "p1"]])
def test_codes_need_one_different_id_each(tmp_path, ids):
    with pytest.raises(ArtifactError, match="ids"):
        write_images(tmp_path / "x.npy", ids, np.zeros((2, 1, 4)), CODES)


def test_images_of_another_form_are_neither_written_nor_read(tmp_path, codes):
    assert read_form(codes) == CODES
    for other in (replace(CODES, shape=(5,)), replace(CODES, kind="latents"), replace(CODES, dtype="uint8")):
        with pytest.raises(ArtifactError, match=r"images\.npy: images are .*shape=\(4,\)"):
            read_images(codes, other)
    with pytest.raises(ArtifactError, match=r"x\.npy: images of shape \(4,\) instead of \(2, 2\)"):
        write_images(tmp_path / "x.npy", ["p1"], np.zeros((1, 1, 4)), replace(CODES, shape=(2, 2)))


def test_latents_come_back_with_their_shape_and_numbers(tmp_path):
    form = ImageForm("latents", (2, 1, 3), "float16")
    latents = np.linspace(-1, 1, 12).reshape(2, 1, *form.shape).astype(np.float16)
    write_images(tmp_path / "x.npy", ["p1", "p2"], latents, form)
    ids, stored = read_images(tmp_path / "x.npy", form)
    assert ids == ["p1", "p2"] and stored.dtype == np.float16 and np.array_equal(stored, latents)
    assert torch.equal(as_tensor(stored), torch.from_numpy(latents))
    write_images(tmp_path / "none.npy", [], form.empty(0, 3), form)
    assert read_images(tmp_path / "none.npy")[1].shape == (0, 3, 2, 1, 3)


def test_weights_come_back(tmp_path):
    weight = torch.arange(6.0).reshape(2, 3)
    files.write_weights(tmp_path / "m.safetensors", {"w": weight.T})
    assert torch.equal(files.read_weights(tmp_path / "m.safetensors")["w"], weight.T)


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


def test_pickles_are_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, new = tmp_path / "plain.safetensors", tmp_path / "new.safetensors"
    plain.write_bytes(pickle.dumps(Harmful()))
    torch.save({"w": torch.ones(2)}, new)
    for path in (plain, new):
        with pytest.raises(ArtifactError, match=rf"{path.name}.*pickle.*[Cc]onvert"):
            files.read_weights(path)
    assert not (tmp_path / "harmed").exists()


def test_truncated_weights_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    files.write_weights(path, {"w": torch.ones(100)})
    os.truncate(path, 200)
    with pytest.raises(ArtifactError, match=r"m\.safetensors.*truncated"):
        files.read_weights(path)


def test_manifest_says_what_a_folder_is_made_from(tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("id\n")
    files.write_manifest(tmp_path / "out", config={"steps": 3}, inputs=[source], seed=4)
    manifest = files.read_json(tmp_path / "out" / "manifest.json")
    assert manifest["config"] == {"steps": 3}
    assert manifest["seed"] == 4
    assert manifest["inputs"] == {str(source): files.sha256(source)}
    names = {"git_revision", "config", "config_digest", "seed", "matrix_kernel", "versions", "inputs"}
    assert set(manifest) == names
    assert json.dumps(manifest).count(":") < 30  # no clock time, no host


def test_layout_keeps_everything_of_a_checkpoint_in_its_folder(tmp_path):
    layout = files.Layout(tmp_path / "micro")
    assert layout.checkpoint(2, "pair-1") == tmp_path / "micro" / "seed2" / "pair-1"
    assert layout.data("gap") == tmp_path / "micro" / "data" / "gap.parquet"


@pytest.fixture
def large(tmp_path):
    """A file that a manifest knows, of no zeros."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(np.random.default_rng(0).bytes(files.LARGE + 3))
    files.write_manifest(tmp_path, config={}, inputs=[])
    return path


def test_a_manifest_knows_the_large_files_beside_it(large):
    (large.parent / "history.csv").write_text("step\n")
    (large.parent / ".model.7.safetensors").write_bytes(large.read_bytes())  # of a killed process
    files.save_manifest(large.parent, {"seed": 3})
    manifest = files.read_json(large.parent / "manifest.json")
    assert manifest["seed"] == 3 and manifest["large_files"].keys() == {"model.safetensors"}
    assert manifest["large_files"]["model.safetensors"]["sha256"] == files.sha256(large)


def test_a_large_file_is_not_read_to_be_known(large, tmp_path, monkeypatch):
    images = tmp_path / "images.npy"
    form = ImageForm("codes", (2**20,), "uint16")
    write_images(images, ["a", "b"], np.zeros((2, 1, 2**20), np.uint16), form)
    assert min(path.stat().st_size for path in (large, images)) >= files.LARGE
    known = {path: files.sha256(path) for path in (large, images)}
    monkeypatch.delattr(files, "sha256")
    assert {path: files.content_digest(path) for path in known} == known
    os.utime(large, (1, 1))  # as `dvc checkout` does
    assert files.content_digest(large) == known[large]


@pytest.mark.parametrize("change", ["other values", "longer", "no manifest", "older manifest", "manifest of others"])
def test_what_no_manifest_knows_is_read(large, change):
    manifest = large.parent / "manifest.json"
    if change == "other values":
        large.write_bytes(np.random.default_rng(1).bytes(files.LARGE + 3))
    elif change == "longer":
        large.write_bytes(large.read_bytes() + b"0")
    elif change == "no manifest":
        manifest.unlink()
    else:
        files.write_json(manifest, {"large_files": {"other": {}}} if "others" in change else {"seed": 0})
    assert files.content_digest(large) == files.sha256(large)


def test_a_small_file_is_read_whatever_a_manifest_says(tmp_path):
    path = tmp_path / "small.npy"
    path.write_bytes(b"abc")
    files.write_json(tmp_path / "small.json", {"sha256": "0"})
    assert files.content_digest(path) == files.sha256(path)


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b"[" * 100_000, b"\xff\xfe", b"{"])
def test_json_that_cannot_be_read_is_named(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json: not a readable JSON artifact"):
        files.read_json(tmp_path / "a.json")
