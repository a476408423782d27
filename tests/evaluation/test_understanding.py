import math
from collections import Counter

import pytest

from hermesflow.data.microworld.captions import LEXICON, caption_of
from hermesflow.data.microworld.judge import read_images
from hermesflow.data.microworld.scenes import render
from hermesflow.data.microworld.world import WORLD, make_scene
from hermesflow.data.worlds.language import KINDS
from hermesflow.data.worlds.questions import Question
from hermesflow.evaluation.worlds import understanding
from hermesflow.evaluation.worlds.understanding import (
    Item,
    answer_units,
    caption_units,
    cider_scores,
    grade,
    items_of,
    looks_of,
    mme_items,
    pope_items,
    yes_or_no,
)


def value(units, metric):
    own = units[units["metric"] == metric]
    return own["numerator"].sum() / own["denominator"].sum()


def world(count=140):
    """(id, scene, caption) of all kinds in turn."""
    import numpy as np

    generator = np.random.default_rng(0)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        scene = make_scene(kind, generator)
        yield f"{kind}-{index}", scene, caption_of(scene, kind)


def rows(count=140):
    from hermesflow.data.microworld.world import WORLD

    return [
        {"id": key, "caption": caption, "questions": [vars(q) for q in WORLD.questions_of(caption)]}
        for key, _, caption in world(count)
    ]


def test_pope_figures_by_hand():
    truths = (("a", "yes"), ("a", "no"), ("b", "yes"), ("b", "no"))
    items = [Item("pope", "random", key, "q", truth) for key, truth in truths]
    units = answer_units(grade(items, ["yes", "yes , it is", "no", "no there is not"]))  # TP FP FN TN
    assert value(units, "pope/random/accuracy") == 0.5
    assert value(units, "pope/random/f1") == 0.5  # 2 * 1 / (2 * 1 + 1 + 1)
    items.append(Item("pope", "random", "c", "q", "yes"))
    units = answer_units(grade(items, ["yes", "yes", "no", "no", "yes"]))
    assert value(units, "pope/random/accuracy") == pytest.approx(3 / 5)
    assert value(units, "pope/random/f1") == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_mme_figures_by_hand():
    # image a: both right; image b: one of two -> accuracy 3/4, accuracy+ 1/2
    items = [Item("mme", "color", key, "q", truth) for key in "ab" for truth in ("yes", "no")]
    units = answer_units(grade(items, ["yes", "no", "yes", "yes"]))
    assert value(units, "mme/color") == pytest.approx(100 * (3 / 4 + 1 / 2))


def test_vqa_wants_the_answer_itself():
    items = [
        Item("vqa", "color", "a", "q", "red"),
        Item("vqa", "color", "a", "q2", "red"),
        Item("vqa", "count", "b", "q", "two"),
    ]
    graded = grade(items, [" Red ", "red circle", "two"])
    assert list(graded["right"]) == [True, False, True]
    units = answer_units(graded)
    assert value(units, "vqa") == pytest.approx(2 / 3)
    assert set(units["id"]) == {"a", "b"}  # one row per image, not per question


@pytest.mark.parametrize(
    ("said", "read"),
    [("yes", "yes"), ("No.", "no"), ("it is not", "no"), ("a circle", "yes"), ("none", "yes"), ("", "yes")],
)
def test_pope_reading_of_free_answers(said, read):
    assert yes_or_no(said) == read


def test_every_built_question_is_true_of_its_image_and_in_the_training_words():
    known = set(WORLD.vocabulary())
    pictures = {key: render(scene, image_size=48) for key, scene, _ in world()}
    items = items_of(rows(), WORLD)
    assert {item.benchmark for item in items} == {"pope", "mme", "vqa", "gqa"}
    for item in items:
        assert set(item.question.split()) <= known
        question = Question(item.question, ("yes", "no"), item.answer, item.task)
        assert WORLD.answer(read_images(pictures[item.id][None])[0], question) == item.answer, item


def test_pope_balances_yes_and_no_in_every_image():
    for split in ("random", "popular", "adversarial"):
        counts = Counter((i.id, i.answer) for i in items_of(rows(), WORLD) if i.benchmark == "pope" and i.task == split)
        assert all(counts[key, "yes"] == counts[key, "no"] for key, _ in counts)


def test_pope_popular_and_adversarial_negatives():
    images = {
        "a": [("circle", "red"), ("square", "blue")],
        "b": [("cross", "green")],
        "c": [("cross", "green"), ("triangle", "cyan")],
    }
    absent = {
        task: [i.question for i in pope_items(images, LEXICON) if i.id == "a" and i.task == task and i.answer == "no"]
        for task in ("popular", "adversarial")
    }
    assert absent["popular"][0] == "is there a green cross ?"
    assert set(absent["adversarial"]) == {"is there a blue circle ?", "is there a red square ?"}


def test_pope_and_mme_repeat_themselves():
    assert items_of(rows(30), WORLD) == items_of(rows(30), WORLD)


def test_plain_captions_are_asked_about_without_colour():
    items = pope_items({"a": looks_of(WORLD.parse_caption("a circle and a small square"))}, LEXICON)
    assert {i.question for i in items if i.task == "random"} == {
        "is there a circle ?", "is there a square ?", "is there a triangle ?", "is there a cross ?",
    }  # fmt: skip


def test_mme_asks_two_per_task_and_only_what_the_caption_settles():
    plain = Counter(i.task for i in mme_items("a", WORLD.parse_caption("a small circle"), LEXICON))
    assert plain == {"existence": 2, "count": 2}
    related = Counter(i.task for i in mme_items("a", WORLD.parse_caption("a blue square above a cyan circle"), LEXICON))
    assert related == {"existence": 2, "count": 2, "position": 2, "color": 2}
    position = {
        i.question: i.answer
        for i in mme_items("a", WORLD.parse_caption("a blue square above a cyan circle"), LEXICON)
        if i.task == "position"
    }
    assert position == {
        "is the blue square above the cyan circle ?": "yes",
        "is the blue square below the cyan circle ?": "no",
    }


def test_count_questions_by_hand():
    counts = {
        i.question: i.answer
        for i in mme_items("a", WORLD.parse_caption("three red crosses"), LEXICON)
        if i.task == "count"
    }
    assert counts == {"how many objects ?": "three", "how many crosses ?": "three"}


def test_captions_of_other_worlds_get_vqa_only():
    row = {
        "id": "x",
        "caption": "a photo of my cat",
        "questions": [{"question": "what", "answer": "cat", "kind": "shape"}],
    }
    assert [i.benchmark for i in items_of([row], WORLD)] == ["vqa"]


def test_cider_by_hand():
    references = {"a": "red circle", "b": "blue square", "c": "green cross"}
    scores = cider_scores({"a": "red circle", "b": "blue circle", "c": "cyan triangle"}, references)
    # two words give 1- and 2-grams only; an exact copy scores 10 * (1 + 1 + 0 + 0) / 4
    assert scores["a"] == pytest.approx(5)
    # b: "blue" of 2 unigrams of equal weight ln 3 agrees: cosine 1/2; no bigram
    assert scores["b"] == pytest.approx(10 * 0.5 / 4)
    assert scores["c"] == 0


def test_cider_weighs_rare_words_more():
    references = {"a": "a red circle", "b": "a blue circle", "c": "a cyan square", "d": "a green cross"}
    scores = cider_scores({**references, "a": "a cyan circle", "b": "a blue square"}, references)
    w, v = math.log(4), math.log(2)  # in one reference of four ("red"), in two of four ("circle")
    # a misses the colour and keeps "circle" (v); b misses the shape and keeps "blue" (w)
    assert scores["b"] > scores["a"] > 0
    norms = math.hypot(w, v) * math.hypot(w, v)
    assert scores["a"] == pytest.approx(10 / 4 * v * v / norms)


def test_caption_units_average_the_images():
    import pandas as pd

    assert value(caption_units(pd.DataFrame({"id": ["a", "b"], "cider": [4.0, 1.0]})), "cider") == 2.5


def test_units_sum_to_the_answers():
    items = items_of(rows(35), WORLD)
    units = answer_units(grade(items, [i.answer for i in items]))
    for metric in units["metric"].unique():
        assert value(units, metric) == (200 if metric.startswith("mme") else 1)
    assert (units["pool"] == understanding.POOL).all()
