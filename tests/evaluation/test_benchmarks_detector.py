import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.benchmarks.geneval import COLORS, OBJECTS, Detection
from hermesflow.evaluation.graders.geneval_detector import ColorClassifier, Detector, crop, instances, object_names
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from tests.support.benchmark_models import ITS_OWN_NAMES, save_clip, save_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector(str(save_detector(tmp_path_factory.mktemp("detector"))))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return PretrainedClip(str(save_clip(tmp_path_factory.mktemp("clip"))))


def logit(chance):
    return float(np.log(chance / (1 - chance)))


def test_score_and_box_by_hand():
    # one query, classes cat and dog and "nothing": chances 0.7, 0.2, 0.1
    classes = torch.tensor([[0.7, 0.2, 0.1]]).log()
    masks = torch.full((1, 6, 8), -3.0)
    masks[0, 1, 2], masks[0, 3, 4] = logit(0.9), logit(0.6)
    found = instances(classes, masks, ["cat", "dog"])
    # the mean of the mask's chances above one half: (0.9 + 0.6) / 2 = 0.75
    assert found["cat"][0].score == pytest.approx(0.7 * 0.75)
    assert found["dog"][0].score == pytest.approx(0.2 * 0.75)
    assert found["cat"][0].box == (2, 1, 5, 4)  # columns 2 to 4, rows 1 to 3
    assert found["cat"][0].mask.sum() == 2


def test_a_mask_without_pixels_is_no_object():
    assert instances(torch.zeros(1, 3), torch.full((1, 4, 4), -1.0), ["cat", "dog"]) == {}


def test_the_hundred_likeliest_pairs_are_looked_at():
    logits = torch.zeros(60, 3)
    logits[:, 0] = 1.0  # every query is likelier a cat than a dog
    found = instances(logits, torch.ones(60, 2, 2), ["cat", "dog"])
    assert len(found["cat"]) == 60 and len(found["dog"]) == 40


def test_names_of_the_detector_are_translated(detector):
    assert ITS_OWN_NAMES["tv"] == "tvmonitor"
    assert detector.names == list(OBJECTS)
    assert len(set(OBJECTS)) == 80


def test_a_detector_of_other_things_is_refused():
    with pytest.raises(ConfigError, match="stop sign"):
        object_names({i: f"thing {name}" if name == "stop sign" else name for i, name in enumerate(OBJECTS)})


def test_detections_have_the_size_of_the_image(detector):
    found = detector.detect(Image.new("RGB", (60, 40), "red"))
    detections = [one for some in found.values() for one in some]
    assert detections and set(found) <= set(OBJECTS)
    for one in detections:
        assert one.mask.shape == (40, 60) and 0 <= one.score <= 1
        left, top, right, bottom = one.box
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40
        assert one.mask[int(top) : int(bottom), int(left) : int(right)].sum() == one.mask.sum()


def test_masks_grow_to_what_the_network_saw_and_then_to_the_image(detector):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    batch = detector._processor(image, return_tensors="pt")
    with torch.inference_mode():
        seen = detector._model(**batch)
    grown = F.interpolate(seen.masks_queries_logits, size=(800, 1216), mode="bilinear", align_corners=False)
    grown = F.interpolate(grown, size=(40, 60), mode="bilinear", align_corners=False)
    expected = instances(seen.class_queries_logits[0], grown[0], detector.names)["cat"]
    found = detector.detect(image)["cat"]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected])
    assert [one.box for one in found] == [one.box for one in expected]


def test_an_image_is_seen_with_its_shorter_side_at_800(detector):
    def seen(width, height):
        return tuple(detector._processor(Image.new("RGB", (width, height)), return_tensors="pt")["pixel_values"].shape)

    assert seen(512, 512) == (1, 3, 800, 800)
    # 800 x 3200 is too long: 1333 high and 333 wide, both rounded up to steps of 32
    assert seen(100, 400) == (1, 3, 1344, 352)


def test_pixels_are_scaled_as_mmdet_does(detector):
    """Its numbers, of red, green and blue: less 123.675, 116.28, 103.53, over 58.395, 57.12, 57.375."""
    pixels = detector._processor(Image.new("RGB", (512, 512), (255, 0, 51)), return_tensors="pt")["pixel_values"][0]
    expected = torch.tensor([131.325 / 58.395, -116.28 / 57.12, -52.53 / 57.375])
    torch.testing.assert_close(pixels.mean(dim=(1, 2)), expected, rtol=1e-4, atol=0)


def test_an_image_grows_bilinearly(detector):
    """Two columns to 800: from the middle of the one at 200 to that of the other at 600 in steps of 1 / 400."""
    image = Image.new("RGB", (2, 2), (0, 0, 0))
    image.paste((255, 255, 255), (1, 0, 2, 2))
    row = detector._processor(image, return_tensors="pt")["pixel_values"][0, 0, 400] * 58.395 + 123.675
    middles = torch.arange(800) + 0.5
    torch.testing.assert_close(row, ((middles - 200) / 400).clamp(0, 1) * 255, rtol=0, atol=1.0)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}.*object detector"):
        Detector(str(tmp_path))


def test_crop_is_grey_where_the_object_is_not():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1, 2] = mask[2, 3] = True
    cut = np.asarray(crop(Image.new("RGB", (6, 4), "red"), Detection((2, 1, 4, 3), 1.0, mask)))
    assert cut.tolist() == [[[255, 0, 0], [153, 153, 153]], [[153, 153, 153], [255, 0, 0]]]


def test_crop_without_a_mask_is_the_box():
    assert crop(Image.new("RGB", (6, 4)), Detection((2, 1, 4, 4), 1.0)).size == (2, 3)


def test_colour_is_the_nearest_mean_of_three_prompts(clip):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    one, seen = Detection((0, 0, 30, 20), 1.0), clip.image_vectors([image.crop((0, 0, 30, 20))])[0]
    classifier = ColorClassifier(clip)
    for name in OBJECTS[:20]:
        cosines = []
        for color in COLORS:
            texts = [f"a photo of a {color} {name}", f"a photo of a {color}-colored {name}"]
            mean = clip.text_vectors([*texts, f"a photo of a {color} object"]).sum(dim=0) / 3
            cosines.append(float(seen @ (mean / mean.norm())))
        assert classifier.colors(image, name, [one]) == [COLORS[int(np.argmax(cosines))]]


def test_every_object_gets_its_own_colour(clip):
    image = Image.new("RGB", (60, 40))
    image.paste(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)))
    boxes = [Detection((0, 0, 30, 40), 1.0), Detection((30, 0, 60, 40), 1.0)]
    classifier = ColorClassifier(clip)
    together = {name: classifier.colors(image, name, boxes) for name in OBJECTS[:20]}
    assert together == {name: [classifier.colors(image, name, [one])[0] for one in boxes] for name in together}
    assert any(first != second for first, second in together.values())


def test_vectors_have_length_one_and_are_those_of_the_model(clip):
    image = Image.new("RGB", (32, 32), "blue")
    pixels = clip._processor(image, return_tensors="pt")["pixel_values"]
    batch = clip._tokenizer(["a cat"], return_tensors="pt")
    with torch.inference_mode():
        whole = clip.model(pixel_values=pixels, **batch)
    for ours, theirs in (
        (clip.image_vectors([image]), whole.image_embeds),
        (clip.text_vectors(["a cat"]), whole.text_embeds),
    ):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(ours.norm(dim=1), torch.ones(1))


def test_padding_does_not_change_a_text(clip):
    together = clip.text_vectors(["a cat", "a much longer text about a cat"])
    torch.testing.assert_close(together[:1], clip.text_vectors(["a cat"]))


def test_texts_are_cut_at_77_tokens(clip):
    # 75 letters and both end tokens
    short, long, other = ("a" * 75, "a" * 75 + "bcd", "a" * 74 + "b")
    assert torch.equal(clip.text_vectors([short]), clip.text_vectors([short]))
    vectors = clip.text_vectors([f"{short} x", long, other])
    assert vectors.shape == (3, 8) and not torch.allclose(vectors[1], vectors[2])
    torch.testing.assert_close(clip.text_vectors([long]), clip.text_vectors(["a" * 75 + "dcb"]))
