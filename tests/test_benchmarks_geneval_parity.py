import json

import numpy as np
import pytest
from PIL import Image

from benchmark_models import save_clip, save_detector
from hermesflow.core.errors import DataError
from hermesflow.evaluation.graders.geneval_detector import ColorClassifier, Detector
from hermesflow.evaluation.graders.geneval_parity import agreement, differing, grade_folder, read_results, regraded
from hermesflow.evaluation.graders.pretrained import PretrainedClip

CAT = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]}


def line(prompt, image, *, correct, metadata=CAT, details=None):
    """One line as evaluate_images.py writes it through pandas."""
    metadata = {**metadata, "prompt": "a photo"}
    return json.dumps({
        "filename": f"out/sd/{prompt:05d}/samples/{image:04d}.png", "tag": metadata["tag"], "prompt": "a photo",
        "correct": correct, "reason": "" if correct else "expected cat>=2, found 1",
        "metadata": json.dumps(metadata), "details": json.dumps(details or {}),
    })  # fmt: skip


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def cats(count):
    return {"cat": [[0.0, 0.0, 9.0, 9.0, 0.99]] * count}


def test_results_are_read_in_order_of_prompt_and_image(tmp_path):
    lines = [line(10, 0, correct=True), line(9, 1, correct=False), line(9, 0, correct=True, metadata=CUP)]
    table = read_results(write(tmp_path / "results.jsonl", *lines))
    assert list(zip(table["prompt"], table["image"], strict=True)) == [(9, 0), (9, 1), (10, 0)]
    assert list(table["kind"]) == ["colors", "counting", "counting"]
    assert list(table["accepted"]) == [True, False, True]


def test_our_rules_on_their_detections(tmp_path):
    lines = [
        line(0, 0, correct=True, details=cats(2)),
        line(0, 1, correct=False, details=cats(1)),
        line(0, 2, correct=True, details=cats(3)),  # a verdict that their rules would not give
        line(1, 0, correct=True, metadata=CUP),  # a colour: not graded again
    ]
    theirs = read_results(write(tmp_path / "results.jsonl", *lines))
    ours = regraded(theirs)
    assert list(ours["accepted"]) == [True, False, False]
    rules = agreement(ours, theirs[theirs["kind"] != "colors"]).set_index("kind")
    assert rules.loc["counting", "agreement"] == pytest.approx(2 / 3)


def test_agreement_by_hand(tmp_path):
    verdicts = [(True, True), (True, False), (False, True), (False, True), (True, True)]
    sides = []
    for side in (0, 1):
        lines = [line(0, i, correct=both[side], metadata=CAT if i < 4 else CUP) for i, both in enumerate(verdicts)]
        sides.append(read_results(write(tmp_path / f"{side}.jsonl", *lines)))
    table = agreement(*sides).set_index("kind")
    assert list(table.index) == ["counting", "colors", "all"]
    counting = table.loc["counting"]
    assert counting["images"] == 4 and counting["agreement"] == 0.25
    assert counting["ours"] == 0.5 and counting["theirs"] == 0.75
    assert counting["only_ours"] == 1 and counting["only_theirs"] == 2
    assert table.loc["all", "agreement"] == pytest.approx(2 / 5)


def test_images_of_one_side_alone_are_refused(tmp_path):
    ours = read_results(write(tmp_path / "a.jsonl", line(0, 0, correct=True), line(3, 2, correct=True)))
    theirs = read_results(write(tmp_path / "b.jsonl", line(0, 0, correct=True)))
    with pytest.raises(DataError, match="prompt 3, image 2"):
        agreement(ours, theirs)


def test_an_image_that_is_there_twice_is_refused(tmp_path):
    path = write(tmp_path / "results.jsonl", line(4, 1, correct=True), line(4, 1, correct=True))
    with pytest.raises(DataError, match="prompt 4, image 1"):
        read_results(path)


@pytest.mark.parametrize(
    "broken",
    [
        "{}",
        line(0, 0, correct=True).replace("samples/", "other/"),
        line(0, 0, correct=True).replace("true", '"yes"'),
        line(0, 0, correct=True, details={"cat": [[0, 0, 9, 9]]}),
    ],
)
def test_a_broken_line_is_named(tmp_path, broken):
    path = write(tmp_path / "results.jsonl", line(0, 1, correct=True), broken)
    with pytest.raises(DataError, match="line 2"):
        read_results(path)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    detector = Detector(str(save_detector(tmp_path_factory.mktemp("detector"))))
    return detector, ColorClassifier(PretrainedClip(str(save_clip(tmp_path_factory.mktemp("clip")))))


def drawn(folder, *prompts):
    """Images in the original's layout."""
    noise = np.random.default_rng(0)
    for number, metadata in enumerate(prompts):
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        (folder / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps({**metadata, "prompt": "a photo"}))
        for image in range(2):
            pixels = noise.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(samples / f"{image:04d}.png")
    return folder


def single(name, **more):
    return {"tag": "single_object", "include": [{"class": name, "count": 1, **more}]}


def test_images_in_the_original_layout_are_graded(tmp_path, judges):
    table = grade_folder(drawn(tmp_path, single("cat"), single("bench"), single("cat", color="red")), *judges)
    assert list(zip(table["prompt"], table["image"], strict=True)) == [(p, i) for p in range(3) for i in range(2)]
    assert list(table["accepted"][:4]) == [True, True, False, False]  # this detector takes everything for cats
    for row in table.itertuples():
        boxes = json.loads(row.detections)
        assert set(boxes) == {"cat"} and all(score > 0.3 for *_, score in boxes["cat"])
    for right, reason in zip(table["accepted"][4:], table["reason"][4:], strict=True):
        assert right == (reason == "") and (right or reason.startswith("expected red cat>=1, found 0 red; and 1 "))


def test_a_folder_without_images_or_with_a_broken_one_is_named(tmp_path, judges):
    with pytest.raises(DataError, match="no images"):
        grade_folder(tmp_path, *judges)
    (drawn(tmp_path, single("cat")) / "00000" / "samples" / "0001.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"0001\.png"):
        grade_folder(tmp_path, *judges)


def test_a_prompt_without_images_is_named(tmp_path, judges):
    for path in (drawn(tmp_path, single("cat"), single("bench")) / "00001" / "samples").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"00001/samples: holds no images"):
        grade_folder(tmp_path, *judges)


def test_every_graded_image_is_counted(tmp_path, judges, capsys):
    grade_folder(drawn(tmp_path, single("cat"), single("bench")), *judges)
    assert f"grade {tmp_path}: 4/4 images" in capsys.readouterr().err


def test_a_results_file_without_results_is_refused(tmp_path):
    (tmp_path / "results.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"results\.jsonl: holds no results"):
        read_results(tmp_path / "results.jsonl")


def test_only_images_with_another_verdict_differ(tmp_path):
    verdicts = [(True, True), (True, False), (False, True)]
    sides = []
    for side in (0, 1):
        lines = [line(0, i, correct=both[side]) for i, both in enumerate(verdicts)]
        sides.append(read_results(write(tmp_path / f"{side}.jsonl", *lines)))
    assert [list(row) for row in differing(*sides).itertuples(index=False)] == [
        [0, 1, "counting", "", "expected cat>=2, found 1"],
        [0, 2, "counting", "expected cat>=2, found 1", ""],
    ]
