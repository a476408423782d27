"""Prompts and strict readers of generated questions, and the rule by which a caption confirms them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermesflow.data.questions.rows import merge, rows_of
from hermesflow.data.questions.tifa import (
    agrees,
    choice_prompt,
    free_prompt,
    json_messages,
    parse_json,
    parse_tifa,
    tifa_prompt,
    word_f1,
)

HEADER = """ man, selfie, bow tie
Activities: posing
Colors:
Counting: three
Other attributes:
Questions and answers are below:
"""
GOOD = """About man (human):
Q: is this a man?
Choices: yes, no
A: yes
Q: who is posing for a selfie?
Choices: man, woman, boy, girl
A: man
About bow tie (black) (object):
Q: what is the man wearing?
Choices:bow tie, t-shirt
A: Bow  tie
About three (counting):
Q: how many dogs are there?
Choices: 1, 2, 3, 4
A: 3
"""


def test_the_prompt_is_that_of_the_released_model():
    assert tifa_prompt("a fox") == (
        "<s>[INST] <<SYS>>\nGiven an image description, generate one or two multiple-choice questions that verifies if "
        "the image description is correct.\nClassify each concept into a type (object, human, animal, food, activity, "
        "attribute, counting, color, material, spatial, location, shape, other), and then generate a question for each "
        "type.\n\n<</SYS>>\n\nDescription: a fox [/INST] Entities:"
    )


def test_a_text_in_tifas_format_is_read():
    rows, dropped = parse_tifa(HEADER + GOOD + "\n\nDescription: another one")
    assert not dropped
    assert [(row["question"], row["answer"], row["kind"]) for row in rows] == [
        ("is this a man?", "yes", "animal/human"),
        ("who is posing for a selfie?", "man", "animal/human"),
        ("what is the man wearing?", "bow tie", "object"),
        ("how many dogs are there?", "3", "counting"),
    ]
    assert rows[1]["choices"] == ["man", "woman", "boy", "girl"]


BAD = {
    "not the lines Q, Choices, A": ["Q: what?\nA: yes\n", "Q: what?\nChoices: yes, no\n", "Choices: a, b\nA: a\n"],
    "the answer is not one of the choices": ["Q: what?\nChoices: a, b\nA: c\n", "Q: what?\nChoices: a, b\nA:\n"],
    "fewer than two different choices": ["Q: what?\nChoices: a\nA: a\n", "Q: what?\nChoices: a, A\nA: a\n"],
    "more than four choices": ["Q: what?\nChoices: a, b, c, d, e\nA: a\n"],
    "no question": ["Q:\nChoices: a, b\nA: a\n"],
}


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in BAD.items() for text in texts])
def test_a_malformed_question_is_dropped_and_counted_once_and_the_next_is_read(reason, text):
    block = f"About man (human):\n{text}Q: is this a man?\nChoices: yes, no\nA: yes\n"
    if text.startswith("Choices"):
        block = f"About man (human):\nQ: is this a man?\nChoices: yes, no\nA: yes\nQ: and?\nWell.\n{text}"
    rows, dropped = parse_tifa(HEADER + block)
    assert [row["question"] for row in rows] == ["is this a man?"] and dropped == {reason: 1}


@pytest.mark.parametrize("about", ["About man (robot):", "About man (human)", "About man:", "About man (human): Q: x"])
def test_questions_under_an_unknown_or_broken_type_are_dropped(about):
    good = "About man (human):\nQ: is this a man?\nChoices: yes, no\nA: yes\n"
    rows, dropped = parse_tifa(f"{HEADER}{good}{about}\nQ: is it blue?\nChoices: yes, no\nA: yes\n")
    assert len(rows) == 1 and dropped == {"unknown type": 1}


def test_a_question_before_any_type_is_dropped():
    assert parse_tifa(HEADER + "Q: is it blue?\nChoices: yes, no\nA: yes")[1] == {"unknown type": 1}


def test_a_text_cut_at_its_end_keeps_what_is_whole():
    whole = HEADER + GOOD
    rows, dropped = parse_tifa(whole[: whole.index("A: 3")])
    assert len(rows) == 3 and dropped == {"not the lines Q, Choices, A": 1}


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", GOOD, HEADER.replace("Colors:", "Colours:") + GOOD, "\n\n" + HEADER + GOOD]
)
def test_a_text_without_the_header_is_dropped_wholly(text):
    assert parse_tifa(text) == ([], {"text without TIFA's header": 1})


ITEM = {"question": "is this a man?", "choices": ["yes", "no"], "answer": "yes", "type": "human"}


def test_the_json_prompt_asks_for_the_keys_that_are_read():
    (message,) = json_messages("a fox")
    assert all(f'"{key}"' in message["content"] for key in ITEM) and message["content"].endswith("a fox")


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "\n```\n{}\n```\n"])
def test_a_json_list_is_read_with_or_without_a_fence(form):
    rows, dropped = parse_json(form.replace("{}", json.dumps([ITEM])))
    assert rows == [{**{k: ITEM[k] for k in ("question", "choices", "answer")}, "kind": "animal/human"}] and not dropped


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "text that is not JSON"),
        (f"Sure! {json.dumps([ITEM])}", "text that is not JSON"),
        (json.dumps([ITEM])[:-9], "text that is not JSON"),
        ("[" * 100_000, "text that is not JSON"),
        (json.dumps(ITEM), "JSON that is not a list"),
        (json.dumps([{**ITEM, "why": "because"}]), "other keys than question, choices, answer, type"),
        (json.dumps(["text"]), "other keys than question, choices, answer, type"),
        (json.dumps([{**ITEM, "type": "robot"}]), "unknown type"),
        (json.dumps([{**ITEM, "type": ["human"]}]), "unknown type"),
        (json.dumps([{**ITEM, "choices": "yes, no"}]), "choices are not texts"),
        (json.dumps([{**ITEM, "choices": ["yes", 1]}]), "choices are not texts"),
        (json.dumps([{**ITEM, "answer": True}]), "no answer"),
        (json.dumps([{**ITEM, "answer": "maybe"}]), "the answer is not one of the choices"),
        (json.dumps([{**ITEM, "question": None}]), "no question"),
    ],
)
def test_json_of_another_form_is_dropped_with_its_reason(text, reason):
    assert parse_json(text) == ([], {reason: 1})


def test_the_checker_is_asked_as_in_tifa():
    row = {"question": "how many?", "choices": ["1", "2"], "answer": "2"}
    assert choice_prompt(row, "two dogs") == "how many? \n two dogs \n (A) 1 (B) 2 "
    assert free_prompt(row, "two dogs") == "how many? \n two dogs"


@pytest.mark.parametrize(
    ("answer", "chosen", "free", "reason"),
    [
        ("yes", "yes", "whatever", ""),
        ("yes", "no", "yes", "caption says another choice"),
        ("bow tie", "Bow tie", "a bow tie", ""),
        ("bow tie", "bow tie", "tie", ""),  # F1 2/3
        ("bow tie", "bow tie", "a red tie", "caption does not say it freely"),  # F1 0.4
        ("bow tie", "bow tie", "", "caption does not say it freely"),
        ("3", "3", "three", ""),
        ("three", "three", "3.", ""),
        ("yin-yang symbol", "yin-yang symbol", "a yin-yang symbol", ""),
    ],
)
def test_both_answers_from_the_caption_must_agree(answer, chosen, free, reason):
    assert agrees({"answer": answer}, chosen, free, min_f1=0.6) == reason


def test_the_f1_of_words_is_tifas():
    assert word_f1(["a", "b"], ["a", "b"]) == 1
    assert word_f1(["bow", "tie"], ["tie"]) == pytest.approx(2 / 3)
    assert word_f1(["a"], ["b"]) == word_f1(["a"], []) == word_f1([], ["a"]) == 0
    assert word_f1([], []) == 1
    assert word_f1(["a", "b", "c"], ["a", "b", "d", "e"]) == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


def test_of_the_same_question_the_first_is_kept():
    first = rows_of([{"question": "Is it red?", "choices": ["yes", "no"], "answer": "yes"}], "own")[0]
    again = [{**first[0], "question": "is it  RED ?", "answer": "no"}, {**first[0], "question": "is it blue?"}]
    merged, repeats = merge([first, again])
    assert [row["question"] for row in merged] == ["Is it red?", "is it blue?"] and repeats == [0, 1]
    assert merged[0]["answer"] == "yes"


def test_a_users_questions_are_counted_where_they_cannot_be_used():
    rows, dropped = rows_of(
        [{"question": "q", "choices": ["a", "b"], "answer": "b", "kind": "x"}, {"question": "q"}, 3], "own"
    )
    assert [row["kind"] for row in rows] == ["x"]
    assert dropped == {"choices are not texts": 1, "not a question with choices and answer": 1}
    assert rows_of(None, "own") == rows_of(" ", "own") == ([], {})
    assert rows_of("text", "own") == ([], {"questions that are not JSON": 1})


def test_choices_are_parted_as_tifa_parts_them():
    """At a comma and a space: a number keeps its own commas."""
    block = "About crowd (counting):\nQ: how many?\nChoices: 1,000, 2,000, 3,500,  10\nA: 2,000"
    (row,), dropped = parse_tifa(HEADER + block)
    assert row["choices"] == ["1,000", "2,000", "3,500", "10"] and row["answer"] == "2,000" and not dropped


def test_questions_behind_a_blank_line_are_counted():
    rows, dropped = parse_tifa(HEADER + GOOD + "\n" + GOOD)
    assert len(rows) == 4 and dropped == {"behind a blank line": 4}


LINES = st.sampled_from(
    [
        *("About man (human):", "About cup (object):", "About man (robot):", "About ", "About man (human)"),
        *(
            "Q: is it red?",
            "Q: how many?",
            "Q:",
            "Q: 你好?",
            "Choices: yes, no",
            "Choices: 1,000, 2,000",
            "Choices: a,b",
        ),
        *("Choices: a, A", "Choices:", "Choices: a, b, c, d, e", "A: yes", "A: 1,000", "A: a", "A:", "Well.", "", "  "),
    ]
)


@settings(max_examples=200)
@given(lines=st.lists(LINES, max_size=25), header=st.booleans())
def test_every_question_that_is_written_is_kept_or_counted(lines, header):
    text = (HEADER if header else "") + "\n".join(lines)
    rows, dropped = parse_tifa(text)
    if not header:
        assert (rows, dropped) == ([], {"text without TIFA's header": 1})
        return
    asked = sum(line.startswith("Q:") for line in lines)
    assert asked <= len(rows) + dropped.total() <= asked + 1  # lines before the first question are one that is broken
    for row in rows:
        assert row["answer"] in row["choices"] and 2 <= len(row["choices"]) <= 4 and row["question"]
        assert row["kind"] in ("animal/human", "object")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "yes", "no", "human", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ITEM, "kind"]), inner, max_size=5),
    max_leaves=20,
)
QUESTION = st.fixed_dictionaries({"question": JSON, "choices": JSON, "answer": JSON}, optional={"type": JSON})


@settings(max_examples=200)
@given(items=st.lists(JSON | QUESTION | st.just(ITEM), max_size=6), cut=st.integers(0, 3))
def test_every_question_of_a_json_list_is_kept_or_counted(items, cut):
    text = json.dumps(items)
    for rows, dropped in (parse_json(text), rows_of(text, "own"), rows_of(items, "own")):
        assert len(rows) + dropped.total() == len(items)
        assert all(row["answer"] in row["choices"] for row in rows)
        json.dumps(rows, ensure_ascii=False).encode()
    rows, dropped = parse_json(text[: len(text) - cut])
    assert len(rows) + dropped.total() == (1 if cut else len(items))
