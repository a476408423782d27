import json

import numpy as np
import pandas as pd
import pytest

from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmarks.geneval import (
    TABLE_COLUMNS,
    TAGS,
    Detection,
    grade,
    image_row,
    metadata_of,
    read_metadata,
    relative_position,
    strongest,
)
from hermesflow.evaluation.bootstrap import point_values
from hermesflow.evaluation.evaluated import Evaluated
from hermesflow.evaluation.worlds.generation import geneval_units

BENCH, CAT, CUP = ({"class": name, "count": 1} for name in ("bench", "cat", "cup"))
LINES = {  # one line of each kind, as evaluation_metadata.jsonl has them
    line["tag"]: json.dumps(line)
    for line in (
        {"tag": "single_object", "include": [BENCH], "prompt": "a photo of a bench"},
        {"tag": "two_object", "include": [BENCH, CAT], "prompt": "a photo of a bench and a cat"},
        {
            "tag": "counting",
            "include": [{"class": "cat", "count": 2}],
            "exclude": [{"class": "cat", "count": 3}],
            "prompt": "a photo of two cats",
        },
        {"tag": "colors", "include": [{**CUP, "color": "red"}], "prompt": "a photo of a red cup"},
        {
            "tag": "position",
            "include": [CAT, {**CUP, "position": ["left of", 0]}],
            "prompt": "a photo of a cup left of a cat",
        },
        {
            "tag": "color_attr",
            "include": [{**CUP, "color": "red"}, {**CAT, "color": "black"}],
            "prompt": "a photo of a red cup and a black cat",
        },
    )
}
LEFT, RIGHT = (0, 0, 10, 10), (100, 0, 110, 10)


def found(**boxes):
    """Detections by class; those of a class from the most confident to the least."""
    return {name: [Detection(box, 0.99 - i / 100) for i, box in enumerate(some)] for name, some in boxes.items()}


def metadata(tag):
    return metadata_of(json.loads(LINES[tag]))


def painted(**colors):
    """A classifier that sees these colours, by class."""
    return lambda name, objects: colors[name][: len(objects)]


def never(name, objects):
    raise AssertionError("no colour has to be looked at")


@pytest.mark.parametrize(
    ("tag", "boxes", "right"),
    [
        ("single_object", {"bench": [LEFT]}, True),
        ("single_object", {"bench": [LEFT, RIGHT], "cat": [LEFT]}, True),  # more than asked for does no harm
        ("single_object", {"cat": [LEFT]}, False),
        ("two_object", {"bench": [LEFT], "cat": [RIGHT]}, True),
        ("two_object", {"bench": [LEFT, RIGHT]}, False),
        ("counting", {"cat": [LEFT, RIGHT]}, True),
        ("counting", {"cat": [LEFT]}, False),
        ("counting", {"cat": [LEFT, RIGHT, RIGHT]}, False),  # excluded
        ("position", {"cup": [LEFT], "cat": [RIGHT]}, True),
        ("position", {"cup": [RIGHT], "cat": [LEFT]}, False),
        ("position", {"cup": [RIGHT, LEFT], "cat": [(50, 0, 60, 10)]}, False),  # the most confident cup is looked at
        ("position", {"cup": [LEFT]}, False),
    ],
)
def test_kinds_without_colour(tag, boxes, right):
    assert grade(metadata(tag), found(**boxes), never)[0] is right


@pytest.mark.parametrize(
    ("tag", "boxes", "colors", "right"),
    [
        ("colors", {"cup": [LEFT]}, {"cup": ["red"]}, True),
        ("colors", {"cup": [LEFT]}, {"cup": ["pink"]}, False),
        ("colors", {"cup": [LEFT, RIGHT]}, {"cup": ["pink", "red"]}, False),  # only the most confident cup counts
        ("color_attr", {"cup": [LEFT], "cat": [RIGHT]}, {"cup": ["red"], "cat": ["black"]}, True),
        ("color_attr", {"cup": [LEFT], "cat": [RIGHT]}, {"cup": ["black"], "cat": ["red"]}, False),
        ("color_attr", {"cup": [LEFT]}, {"cup": ["red"]}, False),
    ],
)
def test_kinds_with_colour(tag, boxes, colors, right):
    assert grade(metadata(tag), found(**boxes), painted(**colors))[0] is right


def test_reasons_say_every_clause_that_fails():
    assert grade(metadata("two_object"), {}, never)[1] == "expected bench>=1, found 0\nexpected cat>=1, found 0"
    assert grade(metadata("counting"), found(cat=[LEFT] * 4), never)[1] == "expected cat<3, found 4"
    reason = grade(metadata("colors"), found(cup=[LEFT]), painted(cup=["pink"]))[1]
    assert reason == "expected red cup>=1, found 0 red; and 1 pink"
    assert grade(metadata("position"), found(cup=[LEFT]), never)[1] == (
        "expected cat>=1, found 0\nno target for cup to be left of"
    )
    above = grade(metadata("position"), found(cup=[LEFT], cat=[(0, 90, 10, 100)]), never)[1]
    assert above == "expected cup left of target, found above target"


def test_no_reason_where_all_is_right():
    assert grade(metadata("single_object"), found(bench=[LEFT]), never) == (True, "")


@pytest.mark.parametrize(
    ("box", "relations"),
    [
        # target (0, 0, 10, 10), centre (5, 5). Offset (20, 0): 20 - 0.1 * 20 = 18, 18 / 20 = 0.9
        ((20, 0, 30, 10), {"right of"}),
        ((-20, 0, -10, 10), {"left of"}),
        ((0, 20, 10, 30), {"below"}),
        ((0, -20, 10, -10), {"above"}),
        # offset (20, 20): 18 / 28.28 = 0.64 each way
        ((20, 20, 30, 30), {"right of", "below"}),
        # offset (3, 0): 3 - 2 = 1, 1 / 3 = 0.33 is not above 0.5
        ((3, 0, 13, 10), set()),
        # offset (4, 0): 4 - 2 = 2, 2 / 4 = 0.5 is not above 0.5
        ((4, 0, 14, 10), set()),
        # offset (5, 0): 5 - 2 = 3, 3 / 5 = 0.6
        ((5, 0, 15, 10), {"right of"}),
        ((0, 0, 10, 10), set()),
        # width 30, offset (6, 0): 6 - 0.1 * 40 = 2, 2 / 6 = 0.33
        ((-4, 0, 26, 10), set()),
    ],
)
def test_relative_position_by_hand(box, relations):
    assert relative_position(box, (0, 0, 10, 10)) == relations


def test_confidence_must_be_exceeded_and_sixteen_are_kept():
    scores = [0.3, 0.31, 0.95, *[0.5] * 20]
    kept = strongest({"cat": [Detection(LEFT, score) for score in scores], "cup": [Detection(LEFT, 0.1)]}, 0.3)
    assert set(kept) == {"cat"} and len(kept["cat"]) == 16
    assert kept["cat"][0].score == 0.95 and min(one.score for one in kept["cat"]) == 0.5


def test_counting_wants_more_confidence():
    detections = {"cat": [Detection(LEFT, 0.99), Detection(RIGHT, 0.95), Detection(RIGHT, 0.9)]}
    row = image_row(0, 0, metadata("counting"), detections, never)
    assert row[4] is True  # the third cat does not exceed 0.9
    assert json.loads(row[6]) == {"cat": [[*LEFT, 0.99], [*RIGHT, 0.95]]}
    detections["cat"][2] = Detection(RIGHT, 0.91)
    assert image_row(0, 0, metadata("counting"), detections, never)[4] is False


def test_our_rules_on_the_detections_of_a_results_file():
    """A line as evaluate_images.py writes it: boxes of left, top, right, bottom and score."""
    wanted = {"tag": "counting", "prompt": "two cats", "include": [{"class": "cat", "count": 2}]}
    wanted["exclude"] = [{"class": "cat", "count": 3}]
    for count, correct in ((1, False), (2, True), (3, False)):
        theirs = {"metadata": json.dumps(wanted), "details": json.dumps({"cat": [[*LEFT, 0.99]] * count})}
        boxes = json.loads(theirs["details"])
        seen = {name: [Detection(tuple(box), score) for *box, score in found] for name, found in boxes.items()}
        assert grade(metadata_of(json.loads(theirs["metadata"])), seen, never)[0] is correct


def test_overlapping_boxes_are_not_suppressed():
    assert grade(metadata("counting"), found(cat=[LEFT, LEFT]), never)[0]


def test_figures_from_file_to_table_cell(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(LINES[tag] for tag in TAGS) + "\n")
    prompts = read_metadata(path)
    assert [one.tag for one in prompts] == list(TAGS)
    seen = {"bench": [LEFT], "cat": [RIGHT], "cup": [LEFT]}
    rows = [
        image_row(number, image, one, found(**seen) if image < 3 else {}, painted(cup=["red"], cat=["white"]))
        for number, one in enumerate(prompts)
        for image in range(4)
    ]
    units = geneval_units(pd.DataFrame(rows, columns=list(TABLE_COLUMNS)))
    values = point_values(Evaluated(units, np.zeros((0, 1)), np.zeros((0, 1))))
    # three of four images show everything but two cats and a black cat
    expected = {"single_object": 0.75, "two_objects": 0.75, "counting": 0, "colors": 0.75, "position": 0.75}
    for kind, value in {**expected, "color_attribution": 0}.items():
        assert values[f"geneval/{kind}"] == value
    assert values["geneval/overall"] == pytest.approx(4 * 0.75 / 6)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "JSONDecodeError"),
        (LINES["counting"].replace('"counting"', '"countings"'), "countings"),
        (LINES["colors"].replace('"red"', '"mauve"'), "mauve"),
        (LINES["position"].replace('["left of", 0]', '["left of", 1]'), "earlier"),
        (LINES["position"].replace('["left of", 0]', '["near", 0]'), "near"),
        (LINES["single_object"].replace('"count": 1', '"count": 0'), "count"),
        (LINES["single_object"].replace('"bench"', '"unicorn"', 1), "unicorn"),
        (LINES["single_object"].replace('"prompt"', '"text"'), "prompt"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(f"{LINES['colors']}\n{line}\n")
    with pytest.raises(DataError, match="line 2") as caught:
        read_metadata(path)
    assert said in str(caught.value)


def test_an_empty_or_missing_file_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        with pytest.raises(DataError, match=name):
            read_metadata(tmp_path / name)
