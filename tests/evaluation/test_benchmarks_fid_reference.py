"""Reference statistics from a folder of real images, by hand and by the command with the real network."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hermesflow.cli import main
from hermesflow.config.sections import Source
from hermesflow.core.errors import DataError
from hermesflow.core.files import sha256, write_weights
from hermesflow.evaluation.benchmarks.coco import read_captions
from hermesflow.evaluation.graders.fid_reference import moments_of, real_images
from hermesflow.evaluation.graders.fidelity import Caption, Gaussian, features, read_reference, write_reference
from hermesflow.evaluation.graders.inception import Inception, load_inception
from hermesflow.evaluation.graders.reference_origin import check_reference, origin

ROOT = Path(__file__).parents[2]
SHOWO, DOCS = ROOT / "config" / "showo.yaml", ROOT / "docs" / "dpg-and-coco.md"
CAPTIONS = [Caption(9, "a dog"), Caption(42, "a cat"), Caption(391895, "a man")]
COLORS = {9: (10, 0, 0), 42: (20, 20, 0), 391895: (60, 10, 0)}


def save(folder, image_id, ending=".png", *, color=(0, 0, 0), stem="COCO_val2014_"):
    """An image of one colour; others than square, and of other sizes, as COCO's are."""
    path = folder / f"{stem}{image_id:012}{ending}"
    Image.new("RGB", (20 + image_id % 7, 30), color).save(path)
    return path


@pytest.fixture
def val2014(tmp_path):
    folder = tmp_path / "val2014"
    folder.mkdir()
    for image_id, color in COLORS.items():
        save(folder, image_id, color=color)
    return folder


def red_and_green(images):
    return images[:, :2].mean(dim=(2, 3))


def test_moments_by_hand(val2014):
    found = moments_of(real_images(CAPTIONS, val2014), red_and_green, lambda count: None)
    np.testing.assert_allclose(found.mean, [30, 10], atol=1e-3)
    # deviations: red -20, -10, 30; green -10, 10, 0; sums of products over 3 - 1
    np.testing.assert_allclose(found.covariance, [[(400 + 100 + 900) / 2, (200 - 100) / 2], [50, 100]], atol=1e-2)


def test_images_without_a_caption_do_not_count(val2014):
    others = [save(val2014, 43), val2014 / "readme.txt"]
    others[1].write_text("not an image")
    assert [path.stem[-6:] for path in real_images(CAPTIONS, val2014)] == ["000009", "000042", "391895"]


def test_progress_counts_every_image_once(val2014):
    counts = []
    moments_of(real_images(CAPTIONS, val2014) * 20, red_and_green, counts.append)
    assert len(counts) > 1 and sum(counts) == 60


def test_the_list_as_the_docs_make_it(tmp_path, monkeypatch):
    """The first caption of each of the images chosen, from annotations in COCO's form; the same whenever it is made."""
    texts = {391895: ["A man, riding.", "A bike"], 9: ["A\n dog "], 42: ["A cat", "Two"], 5: ["One", "Sun"]}
    given = [(image_id, text) for image_id, own in texts.items() for text in own]
    annotations = [{"image_id": key, "id": 900 + n, "caption": text} for n, (key, text) in enumerate(given)]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2014.json").write_text(json.dumps({"annotations": annotations[::-1]}))
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    expected = [Caption(5, "One"), Caption(9, "A dog"), Caption(42, "A cat"), Caption(391895, "A man, riding.")]
    made = []
    for count in (4, 3, 3):
        assert block.count("30_000") == 1
        exec(textwrap.dedent(block).replace("30_000", str(count)), {})
        made.append(read_captions(tmp_path / "data" / "coco" / "captions_30k.csv"))
    assert made[0] == expected
    assert made[1] == made[2] and len(made[1]) == 3 and set(made[1]) < set(expected)


def test_a_missing_image_is_named(val2014):
    (val2014 / "COCO_val2014_000000000042.png").unlink()
    with pytest.raises(DataError, match=r"2 of the 3 images .* COCO_val2014_000000000042\.jpg"):
        real_images(CAPTIONS, val2014)


def test_two_files_of_one_image_are_named(val2014):
    save(val2014, 42, stem="")
    with pytest.raises(DataError, match=r"000000000042\.png and COCO_val2014_000000000042\.png are one image"):
        real_images(CAPTIONS, val2014)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"nothing: no such folder \(--images\)"):
        real_images(CAPTIONS, tmp_path / "nothing")


def test_a_broken_image_is_named(val2014):
    path = save(val2014, 42)
    path.write_bytes(path.read_bytes()[:50])  # within the pixels
    with pytest.raises(DataError, match=r"000000000042\.png: the image cannot be decoded"):
        moments_of(real_images(CAPTIONS, val2014), red_and_green, lambda count: None)


def config_file(folder, **coco):
    """config/showo.yaml on the CPU with no benchmark but COCO's."""
    plain = yaml.safe_load(SHOWO.read_text())
    plain["benchmarks"] = {"coco": {**plain["benchmarks"]["coco"], **coco}} if coco else None
    plain["runtime"]["device"] = "cpu"
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


def test_the_command_writes_what_the_network_sees(val2014, tmp_path):
    weights = tmp_path / "inception.safetensors"
    write_weights(weights, Inception().state_dict())
    pinned = Source(folder=str(tmp_path), files={weights.name: sha256(weights)})
    rows = [{"image_id": one.image_id, "caption": one.caption} for one in CAPTIONS]
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    reference = tmp_path / "made" / "val2014"  # the name that the config has, whatever its ending
    config = config_file(
        tmp_path,
        captions=str(tmp_path / "captions.json"),
        reference=str(reference),
        inception={"folder": pinned.folder, "files": pinned.files},
    )
    assert main.main(["fid-reference", "--config", str(config), "--images", str(val2014)]) == 0
    found = read_reference(reference)
    pixels = [np.asarray(Image.open(path)) for path in real_images(CAPTIONS, val2014)]
    seen = features(load_inception(pinned), pixels).astype(np.float64)
    assert np.ptp(seen, axis=0).max() > 0
    assert list(reference.parent.iterdir()) == [reference]
    assert f"{reference} (sha256 {sha256(reference)}; of the list's 3 real" in check_reference(
        reference, CAPTIONS, pinned
    )
    np.testing.assert_allclose(found.mean, seen.sum(axis=0) / 3, rtol=1e-4)
    apart = seen - seen.sum(axis=0) / 3
    np.testing.assert_allclose(found.covariance.diagonal(), (apart**2).sum(axis=0) / 2, rtol=1e-3, atol=1e-12)


def statistics(path, **notes):
    write_reference(path, Gaussian(np.zeros(2), np.eye(2)), **notes)
    return path


NETWORK = Source(folder="weights", files={"inception.pth": "a" * 64})


def test_statistics_of_another_caption_list_are_refused(tmp_path):
    path = statistics(tmp_path / "a.npz", **origin(CAPTIONS, NETWORK))
    others = [CAPTIONS[0], Caption(43, "a cat"), CAPTIONS[2]]
    with pytest.raises(DataError, match=r"a\.npz: statistics of 3 images.*has 3; image 42 .*hermesflow fid-reference"):
        check_reference(path, others, NETWORK)
    with pytest.raises(DataError, match=r"of 3 images.*has 2; image 391895 "):
        check_reference(path, CAPTIONS[:2], NETWORK)


def test_statistics_by_another_network_are_refused(tmp_path):
    path = statistics(tmp_path / "a.npz", **origin(CAPTIONS, NETWORK))
    other = Source(folder="weights", files={"inception.safetensors": "b" * 64})
    with pytest.raises(DataError, match=r"a\.npz: made by an Inception of sha256 a{64}.* pins b{64}\. Pin that one"):
        check_reference(path, CAPTIONS, other)


def test_statistics_from_elsewhere_are_called_so(tmp_path):
    """As ADM's have it, with arrays of its own beside mu and sigma."""
    path = statistics(tmp_path / "a.npz", mu_s=np.zeros(3), sigma_s=np.eye(3))
    assert "made elsewhere" in check_reference(path, CAPTIONS, NETWORK)


def test_notes_are_not_unpickled(tmp_path):
    path, notes = tmp_path / "a.npz", {"image_ids": np.array([{}], dtype=object), "inception": np.array(["a" * 64])}
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), **notes)
    with pytest.raises(DataError, match=r"a\.npz: cannot be read .*Object arrays"):
        check_reference(path, CAPTIONS, NETWORK)


def test_a_config_without_the_section_is_told(val2014, tmp_path, capsys):
    assert main.main(["fid-reference", "--config", str(config_file(tmp_path)), "--images", str(val2014)]) == 1
    assert "own.yaml: has no section `benchmarks.coco`" in capsys.readouterr().err
