import numpy as np
import pytest

from hermesflow.core.errors import DataError
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import Scene, SceneObject
from hermesflow.evaluation.bootstrap import point_values
from hermesflow.evaluation.evaluated import Evaluated
from hermesflow.evaluation.worlds import self_judged
from hermesflow.evaluation.worlds.gap import PairQuestion, gap_table, gap_units

REAL = Scene((SceneObject("circle", "red", "large", 0),))
WRONG_COLOR = Scene((SceneObject("circle", "blue", "large", 0),))
EMPTY = Scene(())
COLOR = Question("what color is the circle ?", ("red", "blue", "green"), "red", "color")
SHAPE = Question("what shape is the object ?", ("circle", "square"), "circle", "shape")
THERE = Question("is there a red circle ?", ("yes", "no"), "yes", "existence")


def values(table):
    return point_values(Evaluated(gap_units(table, {"a": "a red circle"}), np.zeros((0, 1)), np.zeros((0, 1))))


def graded(free, nearest, drawn):
    asked = [PairQuestion("a", q) for q in (COLOR, SHAPE, THERE)]
    return gap_table(asked, free=free, nearest=nearest, real={"a": REAL}, generated={"a": drawn}, read=WORLD.answer)


def test_both_protocols_by_hand():
    # "reddish" is nearest to "red": right by the paper's protocol, not what the judge reads off the image
    table = graded(["reddish", "circle", "no"], ["red", "circle", "no"], WRONG_COLOR)
    found = values(table)
    assert found["gap/paper/understanding"] == pytest.approx(2 / 3)
    assert found["gap/same-judge/understanding"] == pytest.approx(1 / 3)
    assert (
        found["gap/paper/generation"] == found["gap/same-judge/generation"] == pytest.approx(1 / 3)
    )  # the shape alone
    assert found["gap/paper/gap"] == pytest.approx(1 / 3)
    assert found["gap/same-judge/gap"] == pytest.approx(0)
    assert found["gap/paper/both_right"] == found["gap/same-judge/both_right"] == pytest.approx(1 / 3)  # the shape


def test_both_right_is_of_the_same_question():
    """One of three is right on each side, on a generated image of another color the shape: the sides are equal."""
    for answers, both in ((["red", "square", "no"], 0), (["blue", "circle", "no"], 1 / 3)):
        found = values(graded(answers, answers, WRONG_COLOR))
        for protocol in ("paper", "same-judge"):
            sides = [found[f"gap/{protocol}/{side}"] for side in ("understanding", "generation", "both_right")]
            assert sides == pytest.approx([1 / 3, 1 / 3, both])


def test_same_judge_takes_both_right_by_its_own_rule():
    """Nearest choice right, free answer not what the judge reads: right by `paper` alone."""
    found = values(graded(["reddish", "round", "yes"], ["red", "circle", "yes"], REAL))
    assert found["gap/paper/both_right"] == 1 and found["gap/same-judge/both_right"] == pytest.approx(1 / 3)


def test_both_right_by_the_model_s_own_answers():
    asked = [PairQuestion("a", COLOR), PairQuestion("a", SHAPE), PairQuestion("b", COLOR), PairQuestion("b", THERE)]
    table = self_judged.gap_table(
        asked, real=["red", "circle", "blue", "yes"], generated=["red", "square", "red", "yes"]
    )  # both right: the first and the last
    units = gap_units(table, {"a": "one", "b": "two"}, self_judged.SIDES)
    both = units[units["metric"] == "gap/self/both_right"].set_index("id")[["numerator", "denominator"]]
    assert both.loc["one"].tolist() == [1, 2] and both.loc["two"].tolist() == [1, 2]
    assert set(units["metric"]) == set(self_judged.SIDES)


def test_what_the_judge_cannot_tell_is_wrong():
    table = graded(["red", "circle", "yes"], ["red", "circle", "yes"], EMPTY)
    assert list(table["judge_drawn"].isna()) == [True, True, False]
    assert values(table)["gap/paper/generation"] == 0
    assert values(table)["gap/same-judge/understanding"] == 1


def test_a_perfect_model_has_no_gap():
    found = values(graded(["red", "circle", "yes"], ["red", "circle", "yes"], REAL))
    assert found["gap/paper/gap"] == found["gap/same-judge/gap"] == 0
    assert found["gap/paper/generation"] == 1


def test_pairs_are_joined_by_id_and_resampled_whole():
    asked = [PairQuestion("b", COLOR), PairQuestion("a", COLOR), PairQuestion("b", SHAPE)]
    table = gap_table(
        asked,
        free=["red"] * 3,
        nearest=["red"] * 3,
        real={"a": REAL, "b": REAL},
        generated={"a": REAL, "b": EMPTY},
        read=WORLD.answer,
    )
    units = gap_units(table, {"a": "one", "b": "two"})
    generation = units[units["metric"] == "gap/paper/generation"].set_index("id")
    assert generation.loc["one", ["numerator", "denominator"]].tolist() == [1, 1]
    assert generation.loc["two", ["numerator", "denominator"]].tolist() == [0, 2]


def test_pairs_of_one_caption_are_one_unit():
    table = gap_table(
        [PairQuestion("a", COLOR), PairQuestion("b", COLOR)],
        free=["red", "blue"],
        nearest=["red", "blue"],
        real={"a": REAL, "b": REAL},
        generated={"a": REAL, "b": REAL},
        read=WORLD.answer,
    )
    units = gap_units(table, {"a": "a red circle", "b": "a red circle"}).set_index("metric")
    assert units.loc["gap/paper/understanding", ["numerator", "denominator"]].tolist() == [1, 2]
    assert units.index.is_unique


def test_a_question_the_judge_has_no_rule_for_is_named():
    asked = [PairQuestion("pair-7", Question("why ?", ("a", "b"), "a", "shape"))]
    with pytest.raises(DataError, match=r"pair-7.*why \?"):
        gap_table(
            asked, free=["a"], nearest=["a"], real={"pair-7": REAL}, generated={"pair-7": REAL}, read=WORLD.answer
        )
