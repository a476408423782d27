import pytest

from hermesflow.evaluation.judges.instructions import OF_IMAGE, OF_TEXT, prompt_of, read_choice
from hermesflow.evaluation.judges.protocol import Item

CHOICES = ("red", "dark blue", "2")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('{"choice": "red"}', "red"),
        ('```json\n{"choice": "red"}\n```', "red"),
        ('{"Choice": "RED"}', "red"),
        ('{"choice": " Dark  blue. "}', "dark blue"),
        ('{"choice": 2}', "2"),
        ('The circle is red.\n{"choice": "red"}', "red"),
        ('<think>{unclear} is it {"choice": "red"}?</think>{"choice": "red"}', "red"),
        ("red", "red"),
        ('"Red."', "red"),
        ("```\nred\n```", "red"),
    ],
)
def test_one_choice_is_read(text, choice):
    assert read_choice(text, CHOICES) == ("chosen", choice)


@pytest.mark.parametrize("text", ['{"choice": "cannot tell"}', '{"choice": "Cannot tell."}', "cannot tell"])
def test_cannot_tell_is_no_choice(text):
    assert read_choice(text, CHOICES) == ("cannot tell", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "it is red",  # so would be "it is not red"
        '{"choice": "green"}',
        '{"choice": "red or dark blue"}',
        '{"choice": ["red", "dark blue"]}',
        '{"choice": "red", "choice": "dark blue"}',
        '{"choice": "red"} {"choice": "dark blue"}',
        '{"choice": "red"} {"choice": "cannot tell"}',
        '{"choice": "red"} {"choice": "green"}',
        '{"choice": null}',
        '{"choice": true}',
        '{"choice": "re',
        '{"answer": "red"}',
        "I'm sorry, I can't help with that.",
        "{" * 5000,
    ],
)
def test_what_does_not_name_exactly_one_choice_is_unreadable(text):
    assert read_choice(text, CHOICES) == ("unreadable", None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("red", ("cut short", None)),  # or dark blue
        ("", ("cut short", None)),
        ('{"choice": "red', ("cut short", None)),
        ('{"choice": "red"} or {"choice": "dark', ("cut short", None)),
        ('{"choice": "red"} because of the', ("chosen", "red")),
        ('{"choice": "green"} because of the', ("unreadable", None)),
    ],
)
def test_of_a_text_that_was_cut_whole_objects_alone_count(text, read):
    assert read_choice(text, CHOICES, cut=True) == read


def test_choices_that_differ_by_a_stop_are_told_apart():
    assert read_choice('{"choice": "U.S."}', ("U.S", "U.S.")) == ("chosen", "U.S.")
    assert read_choice('{"choice": "U.S.!"}', ("U.S", "U.S.")) == ("unreadable", None)


def test_cannot_tell_may_be_a_choice():
    assert read_choice('{"choice": "cannot tell"}', ("yes", "cannot tell")) == ("chosen", "cannot tell")


def test_the_right_answer_is_never_shown():
    shown = prompt_of(Item("a", b"", "what color ?", ("red", "blue"), "red")).user
    assert shown == "Question: what color ?\nChoices:\n- red\n- blue"
    assert shown == prompt_of(Item("a", b"", "what color ?", ("red", "blue"), "blue")).user


def test_images_and_texts_have_their_own_instructions():
    assert prompt_of(Item("a", b"", "q", ("a", "b"), "a")).system == OF_IMAGE
    prompt = prompt_of(Item("a", 'red\n- "blue"', "q", ("a", "b"), "a"))
    assert prompt.system == OF_TEXT
    assert prompt.user.endswith('The answer to be read: "red\\n- \\"blue\\""')  # it cannot pass for another choice
