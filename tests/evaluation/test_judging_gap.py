import numpy as np
import pytest

from hermesflow.core.errors import DataError
from hermesflow.data.worlds.questions import Question
from hermesflow.evaluation.benchmarks.gap import Judged, answer_counts, ask, gap_table, judge_facts, literal_verdict
from hermesflow.evaluation.bootstrap import point_values
from hermesflow.evaluation.evaluated import UNIT_COLUMNS, Evaluated
from hermesflow.evaluation.judges.endpoint import EndpointJudge
from hermesflow.evaluation.judges.protocol import Verdict
from hermesflow.evaluation.worlds.gap import PairQuestion, gap_units
from tests.support.chat_server import ChatServer, picture

COLOR = Question("what color is the wall ?", ("red", "blue"), "red", "color")
ANIMAL = Question("what animals are there ?", ("dogs", "cats"), "dogs", "object")
THERE = Question("is there a wall ?", ("yes", "no"), "yes", "existence")
RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))


def chose(*choices):
    return [Verdict("a", "chosen" if c else "cannot tell", c, "") for c in choices]


def values(table, captions):
    units = gap_units(table, captions)
    assert tuple(units.columns) == UNIT_COLUMNS
    return point_values(Evaluated(units, np.zeros((0, 1)), np.zeros((0, 1))))


def test_both_protocols_by_hand():
    asked = [PairQuestion("a", q) for q in (COLOR, ANIMAL, THERE)] + [PairQuestion("a", COLOR)]
    judged = Judged(
        generated=chose("red", None, "no", "blue"),
        real=chose("red", "cats", None, "red"),
        answers=chose("red", "dogs", "yes", None),
    )
    table = gap_table(asked, free=["it is red", "puppies", "sure", "pink"], nearest=["red", "dogs", "no", "red"],
                      judged=judged)  # fmt: skip
    # nearest is right in 1, 2 and 4: 3/4; the judge's reading of the drawn image in 1 alone: 1/4
    # same judge: 1 agrees; 2 is another animal than it sees; 3 it cannot see; 4 says none of the choices: 1/4
    assert list(table["understanding_paper"]) == [True, True, False, True]
    assert list(table["understanding_same_judge"]) == [True, False, False, False]
    assert list(table["generation"]) == [True, False, False, False]
    found = values(table, {"a": "a red wall and dogs"})
    assert found["gap/paper/understanding"] == 0.75
    assert found["gap/same-judge/understanding"] == 0.25
    assert found["gap/paper/generation"] == found["gap/same-judge/generation"] == 0.25
    assert found["gap/paper/gap"] == 0.5
    assert found["gap/same-judge/gap"] == 0
    assert found["gap/paper/both_right"] == found["gap/same-judge/both_right"] == 0.25  # the first


def test_two_times_nothing_is_not_agreement():
    table = gap_table([PairQuestion("a", COLOR)], free=["?"], nearest=["red"],
                      judged=Judged(generated=chose(None), real=chose(None), answers=chose(None)))  # fmt: skip
    assert not table["understanding_same_judge"][0]
    assert not table["generation"][0]


def test_a_model_that_says_what_the_judge_sees_is_right_by_the_same_judge():
    # the micro world's rule too: the judge's reading is the rule, also where the caption says otherwise
    table = gap_table([PairQuestion("a", COLOR)], free=["blue"], nearest=["blue"],
                      judged=Judged(generated=chose("red"), real=chose("blue"), answers=chose("blue")))  # fmt: skip
    assert table["understanding_same_judge"][0]
    assert not table["understanding_paper"][0]


def test_pairs_of_one_caption_are_one_unit():
    asked = [PairQuestion("a", COLOR), PairQuestion("b", COLOR), PairQuestion("c", COLOR)]
    same = chose("red", "blue", "red")
    table = gap_table(
        asked, free=["red"] * 3, nearest=["red"] * 3, judged=Judged(generated=same, real=same, answers=same)
    )
    units = gap_units(table, {"a": "a wall", "b": "a wall", "c": "a red wall"})
    own = units[units["metric"] == "gap/paper/generation"].set_index("id")
    assert own.loc["a wall", ["numerator", "denominator"]].tolist() == [1, 2]
    assert own.loc["a red wall", ["numerator", "denominator"]].tolist() == [1, 1]


def test_own_answers_that_were_no_choice_or_empty_are_counted():
    asked = [PairQuestion("a", Question("what color ?", ("red", "blue"), "red", "color"))] * 5
    counts = answer_counts(asked, ["red", " Blue", "it is red", "", "  "])
    assert counts == {"a choice": 2, "taken for the nearest": 1, "empty": 2}


def test_refusals_are_counted_on_their_own():
    refused = Verdict("a", "refused", None, "no")
    judged = Judged(generated=[refused, refused], real=chose("red", "cats"), answers=[*chose("red"), refused])
    asked = [PairQuestion("a", COLOR), PairQuestion("a", ANIMAL)]
    facts = judge_facts(asked, judged)
    none = {"chosen": 0, "cannot tell": 0, "refused": 0, "unreadable": 0, "cut short": 0}
    assert facts["drawn"] == {**none, "questions": 2, "refused": 2}
    assert facts["real"] == {**none, "questions": 2, "chosen": 2, "accuracy": 0.5}
    assert facts["said"]["refused"] == 1
    table = gap_table(asked, free=["a", "b"], nearest=["red", "dogs"], judged=judged)
    assert list(table["drawn_outcome"]) == ["refused", "refused"]
    assert not table["generation"].any()


@pytest.mark.parametrize(
    ("text", "outcome", "choice"), [(" Red ", "chosen", "red"), ("", "unreadable", None), (" \n", "unreadable", None)]
)
def test_what_needs_no_judge(text, outcome, choice):
    verdict = literal_verdict(PairQuestion("a", COLOR), text)
    assert (verdict.outcome, verdict.choice) == (outcome, choice)


def test_free_words_need_a_judge():
    assert literal_verdict(PairQuestion("a", COLOR), "it is red") is None


def test_an_endpoint_grades_both_sides(tmp_path):
    asked = [PairQuestion("a", COLOR), PairQuestion("b", COLOR), PairQuestion("b", ANIMAL), PairQuestion("a", COLOR)]
    free = ["surely red", "red", "", "blueish, I think"]
    with ChatServer() as server:
        judge = EndpointJudge(server.settings(tmp_path))
        judged = ask(judge, asked, free=free, real={"a": RED, "b": RED}, generated={"a": BLUE, "b": RED})
        # drawn a and b and b's animals, real a with b (the same picture) and its animals, two answers in free words
        assert len(server.paid) == 5
        assert sum("answer to be read" in text for text in server.paid) == 2
    assert [v.choice for v in judged.generated] == ["blue", "red", None, "blue"]
    assert [v.choice for v in judged.real] == ["red", "red", None, "red"]
    assert [v.choice for v in judged.answers] == ["red", "red", None, "blue"]
    assert [v.id for v in judged.answers] == ["a", "b", "b", "a"]
    table = gap_table(asked, free=free, nearest=["red", "red", "dogs", "blue"], judged=judged)
    found = values(table, {"a": "one", "b": "two"})
    assert found["gap/paper/understanding"] == 0.75
    assert found["gap/same-judge/understanding"] == 0.5
    assert found["gap/paper/generation"] == 0.25


def test_a_pair_without_an_image_is_named(tmp_path):
    with ChatServer() as server, pytest.raises(DataError, match=r"pair b of split gap has no drawn image"):
        judge = EndpointJudge(server.settings(tmp_path))
        ask(judge, [PairQuestion("b", COLOR)], free=["red"], real={"b": RED}, generated={})
    assert server.requests == []
