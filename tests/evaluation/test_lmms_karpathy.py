import json

import pytest
from datasets import Dataset

from hermesflow.core.errors import ConfigError, DataError
from hermesflow.evaluation.lmms import karpathy


def write(folder, images):
    path = folder / "dataset_flickr30k.json"
    path.write_text(json.dumps({"dataset": "flickr30k", "images": images}))
    return path


@pytest.fixture
def records():
    return Dataset.from_dict({"filename": ["1.jpg", "2.jpg", "3.jpg"], "img_id": ["0", "1", "2"]})


def test_only_the_images_of_the_split_are_left(tmp_path, monkeypatch, records):
    rows = [("3.jpg", "test"), ("2.jpg", "train"), ("1.jpg", "test")]
    path = write(tmp_path, [{"filename": name, "split": split, "sentids": [0]} for name, split in rows])
    monkeypatch.setenv(karpathy.SPLITS, str(path))
    assert karpathy.test_images(records)["filename"][:] == ["1.jpg", "3.jpg"]


def test_a_missing_test_image_is_named(tmp_path, monkeypatch, records):
    monkeypatch.setenv(karpathy.SPLITS, str(write(tmp_path, [{"filename": "9.jpg", "split": "test"}])))
    with pytest.raises(DataError, match=r"1 of 1 test images.*9\.jpg"):
        karpathy.test_images(records)


def test_the_variable_must_name_a_file(tmp_path, monkeypatch, records):
    monkeypatch.delenv(karpathy.SPLITS, raising=False)
    with pytest.raises(ConfigError, match=karpathy.SPLITS):
        karpathy.test_images(records)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{"filename": "1.jpg"}]}', '{"images": []}', "[" * 100_000])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "splits.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"splits\.json"):
        karpathy.read_test_names(path)
