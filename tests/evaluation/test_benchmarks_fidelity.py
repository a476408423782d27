import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hermesflow.core.errors import DataError, NotFiniteError
from hermesflow.evaluation.benchmarks.coco import fidelity_units, read_captions, read_list
from hermesflow.evaluation.bootstrap import estimate
from hermesflow.evaluation.evaluated import Evaluated
from hermesflow.evaluation.frechet import distances_to
from hermesflow.evaluation.graders.fidelity import (
    Caption,
    Gaussian,
    clip_scores,
    distance,
    distance_of,
    features,
    moments,
    read_reference,
    scaled,
    stand_in,
    write_reference,
)
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from tests.support.benchmark_models import save_clip

LISTS = Path(__file__).parent / "cases" / "coco-30k-lists"


def test_captions_of_both_formats_in_order_of_ids(tmp_path):
    (tmp_path / "a.csv").write_text('image_id,caption\n74,"A cat, red."\n9,A dog\n')
    (tmp_path / "a.json").write_text(
        '[{"image_id": 74, "caption": "A cat, red."}, {"image_id": 9, "caption": "A dog"}]'
    )
    for name in ("a.csv", "a.json"):
        assert read_captions(tmp_path / name) == [Caption(9, "A dog"), Caption(74, "A cat, red.")]


@pytest.mark.parametrize(
    ("name", "columns"),
    [("a", ("image_id", "prompt")), ("b", ("image_id", "text")), ("c", ("uid", "caption"))],
)
def test_lists_as_they_are_shared_are_read(name, columns):
    captions, found = read_list(LISTS / f"{name}.csv")
    assert captions == [Caption(42, "A dog."), Caption(73, "A cat.")]
    assert (found["image_id"], found["caption"]) == columns


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "Image_ID\tText\n74\tA cat, red.\n000000000009\tA dog\n"),
        ("a.jsonl", '{"cocoid": 74, "prompt": "A cat, red."}\n\n{"cocoid": "9", "prompt": " A dog"}\n'),
        ("a.csv", 'file_name,text\nval2014/COCO_val2014_000000000074.jpg,"A cat, red."\n000000000009.jpg,A dog\n'),
        ("b.csv", 'id,image_id,text,caption\n1,74,other,"A cat, red."\n2,9,other,A dog\n'),  # its own names first
    ],
)
def test_lists_of_the_same_kind_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_captions(tmp_path / name) == [Caption(9, "A dog"), Caption(74, "A cat, red.")]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("id,caption", "has the columns 'id', 'caption'; no column is image_id. Rename"),
        ("image_id,text,prompt", "has the columns 'image_id', 'text', 'prompt'; text and prompt may each be caption"),
        ("image_id,label", r"no column is caption. Rename the column that is caption to that \(prompt, text"),
        ("image_id,Caption,caption ", "Caption and caption  may each be caption"),
    ],
)
def test_other_columns_are_told_once_with_what_to_rename(tmp_path, first, said):
    (tmp_path / "a.csv").write_text(f"{first}\n9,A dog,A dog\n")
    with pytest.raises(DataError, match=said):
        read_captions(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_id,caption\n9,A dog\n9,Another dog\n", "record 2: image 9 has a caption already"),
        ("image_id,caption\nnine,A dog\n", "record 1"),
        ("image_id,caption\n9,\n", "record 1"),
        ("image_id,caption\n9\n", "record 1"),
        ("image_id,caption\n9,A dog, a cat\n", r"record 1: .*\[' a cat'\].* in quotes"),  # not "A dog"
        ("image_id,caption\n4_2,A dog\n", "record 1: image_id is '4_2'"),
        ("image_id,caption\n-9,A dog\n", "record 1: image_id is '-9'"),
        ("id,caption\n9,A dog\n", "image_id"),
        ("image_id,caption\n", "captions of 0 images"),
        ("image_id,caption\n9,A dog\n", "captions of 1 images"),
    ],
)
def test_a_broken_list_of_captions_is_named(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_captions(tmp_path / "a.csv")


@pytest.mark.parametrize("record", [{"image_id": 9.7, "caption": "a"}, {"image_id": 9, "caption": ["a"]}, ["9", "a"]])
def test_a_record_of_another_type_is_named(tmp_path, record):
    (tmp_path / "a.json").write_text(json.dumps([{"image_id": 74, "caption": "A cat"}, record]))
    with pytest.raises(DataError, match=r"a\.json, record 2"):
        read_captions(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image_id,caption\n9,A dog\n74,Caf\xe9\n"),
        ("a.json", '[{"image_id": 9, "caption": "A dog"}, {"image_id": "74", "caption": "Caf\\u00e9"}]'),
    ],
)
def test_a_mark_of_utf_8_at_the_beginning_is_no_part_of_the_list(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert read_captions(tmp_path / name) == [Caption(9, "A dog"), Caption(74, "Caf\xe9")]


def test_cocos_own_annotations_are_no_list(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(DataError, match=r"expected a list of objects .*, got dict"):
        read_captions(tmp_path / "a.json")


def test_the_same_caption_of_two_images_is_two_prompts(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,caption\n1,A dog\n2,A dog\n")
    assert len(read_captions(tmp_path / "a.csv")) == 2


def test_captions_longer_than_the_context_of_clip_are_told(tmp_path):
    """Single letters are tokens, and two more stand around them: 77 hold 75."""
    assert PretrainedClip(str(save_clip(tmp_path))).is_cut(["a " * 75, "a " * 76, "a"]) == [False, True, False]


def test_distance_of_known_gaussians():
    # one feature: rows 0 and 2 have mean 1 and variance 2; the reference has mean 4 and variance 8
    # (1 - 4) ** 2 + (sqrt(2) - sqrt(8)) ** 2 = 9 + 2 = 11
    one = Gaussian(np.array([4.0]), np.array([[8.0]]))
    assert distance(np.array([[0.0], [2.0]]), one) == pytest.approx(11)
    # two features: rows (+-1, +-1) have mean 0 and covariance 4/3 I; the reference mean (1, 0), covariance 12 I
    # 1 + 2 * (sqrt(4/3) - sqrt(12)) ** 2 = 1 + 2 * (4/3 + 12 - 8) = 1 + 32/3
    rows = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    two = Gaussian(np.array([1.0, 0.0]), 12 * np.eye(2))
    assert distance(rows, two) == pytest.approx(1 + 32 / 3)


def test_distance_where_the_covariances_do_not_commute():
    # A = diag(2, 8) of four rows, B = [[5, 3], [3, 5]]; for 2 x 2, tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB))
    # tr AB = 2 * 5 + 8 * 5 = 50, det AB = 16 * 16: 10 + 10 - 2 sqrt(50 + 2 * 16); tr sqrt(A) sqrt(B) would give 2
    rows = np.array([[3**0.5, 0], [-(3**0.5), 0], [0, 12**0.5], [0, -(12**0.5)]])
    assert distance(rows, Gaussian(np.zeros(2), np.array([[5.0, 3.0], [3.0, 5.0]]))) == pytest.approx(20 - 2 * 82**0.5)


def test_distance_of_fewer_images_than_features():
    # A = diag(2, 0) of two rows, B = [[5, 3], [3, 5]]: AB = [[10, 6], [0, 0]] has the roots sqrt(10) and 0
    rows = np.array([[0.0, 7.0], [2.0, 7.0]])
    found = distance(rows, Gaussian(np.array([1.0, 4.0]), np.array([[5.0, 3.0], [3.0, 5.0]])))
    assert found == pytest.approx(3**2 + 2 + 10 - 2 * 10**0.5)


def test_distance_to_its_own_moments_is_none():
    rows = np.random.default_rng(0).normal(size=(50, 4)) @ np.array([[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 3, 1], [1] * 4])
    assert distance(rows, moments(rows)) == pytest.approx(0, abs=1e-6)


def test_rows_that_stand_in_have_the_moments():
    reference = Gaussian(np.array([1.0, -2.0, 0.5]), np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.3], [0.0, 0.3, 1.0]]))
    rows = stand_in(reference)
    assert rows.shape == (6, 3)
    np.testing.assert_allclose(rows.mean(axis=0), reference.mean)
    np.testing.assert_allclose(np.cov(rows, rowvar=False), reference.covariance, atol=1e-12)


def test_features_of_another_extractor_are_refused():
    with pytest.raises(DataError, match="2 features and the drawn images 3"):
        distance(np.zeros((4, 3)), Gaussian(np.zeros(2), np.eye(2)))


def test_reference_statistics_in_the_known_format(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "pytorch_fid.npz", mu=rows.mean(axis=0), sigma=np.cov(rows, rowvar=False))
    write_reference(tmp_path / "ours.npz", moments(rows))
    theirs, ours = (read_reference(tmp_path / name) for name in ("pytorch_fid.npz", "ours.npz"))
    np.testing.assert_allclose(ours.mean, theirs.mean)
    np.testing.assert_allclose(ours.covariance, theirs.covariance)
    with np.load(tmp_path / "ours.npz") as arrays:
        assert sorted(arrays) == ["mu", "sigma"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(2)},
        {"mu": np.zeros(2), "sigma": np.eye(3)},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [0.0, 1.0]])},
        {"mu": np.array([0.0, np.nan]), "sigma": np.eye(2)},
        {"mu": np.array([{}], dtype=object), "sigma": np.eye(1)},  # would be unpickled
    ],
)
def test_broken_statistics_are_named(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=r"a\.npz"):
        read_reference(tmp_path / "a.npz")


def test_a_file_that_is_no_npz_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 broken")
    np.save(tmp_path / "one.npy", np.zeros(2))
    (tmp_path / "fid.pkl").write_bytes(pickle.dumps({"mu": [0.0], "sigma": [[1.0]]}))
    for name in ("a.npz", "one.npy", "fid.pkl", "missing.npz"):
        with pytest.raises(DataError, match=name):
            read_reference(tmp_path / name)


def test_scaling_is_antialiased_and_not_rounded():
    stripes = np.zeros((598, 598, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = scaled(stripes)
    assert small.shape == (3, 299, 299) and small.dtype == np.float32
    # a filter without antialiasing would leave black or white; every pixel averages both
    assert np.abs(small[:, :, 4:-4] - 127.5).max() < 1
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2)
    assert len(np.unique(scaled(ramp)[0, 0])) > 256 or not np.array_equal(scaled(ramp), scaled(ramp).round())


def test_scaling_is_cut_off_at_the_ends_of_the_range():
    edge = np.zeros((20, 20, 3), dtype=np.uint8)
    edge[:, 10:] = 255
    assert scaled(edge).min() == 0 and scaled(edge).max() == 255  # bicubic overshoots on both sides


def test_an_image_of_299_is_left_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (299, 299, 3), dtype=np.uint8)
    np.testing.assert_array_equal(scaled(image), image.transpose(2, 0, 1))


def test_features_go_in_the_order_of_the_images():
    images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in range(70)]
    found = features(lambda batch: batch.mean(dim=(2, 3)), images)
    np.testing.assert_allclose(found, np.repeat(np.arange(70)[:, None], 3, axis=1), atol=1e-4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return PretrainedClip(str(save_clip(tmp_path_factory.mktemp("clip"))))


def test_clip_score_is_a_hundred_times_the_cosine():
    class Known:
        def image_vectors(self, images):
            return torch.tensor([[1.0, 0.0]] * len(images))

        def text_vectors(self, texts):
            return torch.tensor([[0.6, 0.8], [-1.0, 0.0], [1.0, 0.0]])

    images = [np.zeros((8, 8, 3), dtype=np.uint8)] * 3
    np.testing.assert_allclose(clip_scores(Known(), images, ["a", "b", "c"]), [60, 0, 100], rtol=1e-6)


def test_clip_score_of_a_real_model(clip):
    images = list(np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8))
    captions = [f"a cat {i}" for i in range(5)]
    with torch.inference_mode():
        pixels = clip._processor([Image.fromarray(one) for one in images], return_tensors="pt")["pixel_values"]
        whole = clip.model(pixel_values=pixels, **clip._tokenizer(captions, return_tensors="pt"))
    cosines = torch.cosine_similarity(whole.image_embeds, whole.text_embeds)
    assert cosines.max() - cosines.min() > 0.1
    np.testing.assert_allclose(clip_scores(clip, images, captions), 100 * cosines.clamp(min=0), atol=1e-3)


def test_as_many_captions_as_images(clip):
    with pytest.raises(DataError, match="1 images for 2 captions"):
        clip_scores(clip, [np.zeros((8, 8, 3), dtype=np.uint8)], ["a", "b"])


def test_bootstrap_over_prompts_by_reference_statistics():
    generator = np.random.default_rng(0)
    captions = [Caption(i, "a dog") for i in range(40)]
    real, drawn = generator.normal(size=(200, 2)), generator.normal(1, 1, size=(40, 2))
    units = fidelity_units(captions, list(range(40)))
    by_moments = estimate(Evaluated(units, drawn, stand_in(moments(real))), resamples=20)
    by_features = estimate(Evaluated(units, drawn, real), resamples=20)
    assert by_moments.metrics == ("clip_score", "fid") and by_moments.values[0] == pytest.approx(19.5)
    np.testing.assert_allclose(by_moments.values, by_features.values)
    np.testing.assert_allclose(by_moments.replicates, by_features.replicates)
    assert by_moments.values[1] == pytest.approx(distance(drawn, moments(real)))


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([[0.0], [2.0], [0.0], [2.0]], [[1, 1, 1, 1], [4, 0, 0, 0], [0, 3, 1, 0]]),
        ([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [[2, 2], [4, 0], [1, 3]]),
    ],
    ids=["more rows than features", "fewer"],
)
def test_resampled_distances_by_hand(rows, counts):
    """To N(1, 4), of resamples with mean m and variance v: (m - 1)^2 + v + 4 - 2 sqrt(4 v).

    0, 2, 0, 2: m = 1, v = 4/3. Four times 0: m = v = 0. 0, 2, 2, 2: m = 3/2, v = 1. Features that are 0 on both sides
    change nothing.
    """
    mean, covariance = np.eye(len(rows[0]))[0], 4 * np.diag(np.eye(len(rows[0]))[0])
    wanted = [4 / 3 + 4 - 4 * np.sqrt(4 / 3), 1 + 4, 0.25 + 1 + 4 - 4]
    assert distances_to(np.array(counts, float), np.array(rows), mean, covariance) == pytest.approx(wanted)


def test_a_distance_with_its_bootstrap():
    generator = np.random.default_rng(0)
    drawn, reference = generator.normal(1, 1, size=(40, 3)), moments(generator.normal(size=(200, 3)))
    told = []
    found = distance_of(drawn, reference, np.ones((2, 40)), advance=told.append)
    assert (found.items, told) == (40, [1, 1]) and found.replicates == pytest.approx([found.value] * 2)


def test_units_want_the_order_of_the_features():
    with pytest.raises(DataError, match="order"):
        fidelity_units([Caption(10, "a"), Caption(9, "b")], [1.0, 2.0])
    assert list(fidelity_units([Caption(9, "b"), Caption(10, "a")], [1.0, 2.0])["id"]) == [
        "000000000009", "000000000010",
    ]  # fmt: skip


def test_from_the_caption_list_to_the_table_cell(tmp_path, clip):
    (tmp_path / "captions.csv").write_text("image_id,caption\n" + "".join(f"{i},cat {i}\n" for i in range(12)))
    captions = read_captions(tmp_path / "captions.csv")
    generator = np.random.default_rng(0)
    images = list(generator.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8))

    def extractor(batch):
        return torch.stack([batch[:, 0].mean(dim=(1, 2)), batch[:, 1].std(dim=(1, 2))], dim=1)

    write_reference(tmp_path / "val2014.npz", moments(generator.normal(100, 20, size=(50, 2))))
    reference = read_reference(tmp_path / "val2014.npz")
    drawn, scores = features(extractor, images), clip_scores(clip, images, [one.caption for one in captions])
    units = fidelity_units(captions, list(scores))
    found = estimate(Evaluated(units, drawn, stand_in(reference)), resamples=0)
    values = dict(zip(found.metrics, found.values, strict=True))
    assert values["fid"] == pytest.approx(distance(drawn, reference))
    assert values["clip_score"] == pytest.approx(pd.Series(scores).mean())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "image_id;caption\n9;A dog, red\n74;A cat\n"),
        ("a.csv", "image_id\tcaption\n9\tA dog, red\n74\tA cat\n"),
        ("A.TSV", "image_id\tcaption\n9\tA dog, red\n74\tA cat\n"),
        ("A.JSON", '[{"image_id": 9, "caption": "A dog, red"}, {"image_id": 74, "caption": "A cat"}]'),
    ],
)
def test_a_list_as_spreadsheets_save_it_is_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_captions(tmp_path / name) == [Caption(9, "A dog, red"), Caption(74, "A cat")]


def test_of_two_columns_of_one_name_none_is_guessed(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,caption,caption\n9,A dog,x\n74,A cat,y\n")
    with pytest.raises(DataError, match="of its columns image_id, caption, caption two have one name"):
        read_captions(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "sigma", [np.diag([np.inf, 1.0]), np.full((2, 2), np.inf), -np.eye(2), np.eye(2) * 1j, np.diag([1.0, np.nan])]
)
def test_a_covariance_that_is_none_is_refused(tmp_path, sigma):
    """An infinite one killed the process."""
    np.savez(tmp_path / "a.npz", mu=np.zeros(2), sigma=sigma)
    with pytest.raises(DataError, match=r"a\.npz"):
        read_reference(tmp_path / "a.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named_by_its_image(value):
    images = [np.full((8, 8, 3), 200 if number == 33 else 10, dtype=np.uint8) for number in range(40)]

    def extractor(together):
        level = together.mean(dim=(1, 2, 3))
        return torch.where(level > 100, value, level)[:, None]

    with pytest.raises(NotFiniteError, match="a feature of image 33 is nan or infinite"):
        features(extractor, images)
