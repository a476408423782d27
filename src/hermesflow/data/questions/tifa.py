"""TIFA: a prompt that asks a language model for questions about a caption, and strict readers of what it writes.

A question is checked against the caption by a text-only QA model: both as multiple choice and as a free answer.
Source: Hu et al. 2023 (TIFA) and its released code, tifascore/question_gen_llama2.py and question_filter.py.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hermesflow.data.questions.rows import Unusable, plain, question_row

TYPES = (
    *("object", "human", "animal", "food", "activity", "attribute", "counting", "color", "material", "spatial"),
    *("location", "shape", "other"),
)
"""What a question can be about."""
INTRODUCTION = (
    "Given an image description, generate one or two multiple-choice questions that verifies if the image description "
    "is correct.\nClassify each concept into a type (object, human, animal, food, activity, attribute, counting, "
    "color, material, spatial, location, shape, other), and then generate a question for each type.\n"
)
"""The words the released Llama 2 was trained with: not to be corrected."""
JSON_TASK = (
    'Write only a JSON list of objects with exactly the keys "question", "choices", "answer" and "type": a short '
    "question about what the image shows, a list of two to four different short choices, the right one of them, and "
    f"one of the types {', '.join(TYPES)}."
)

_HEADER = ("", "Activities:", "Colors:", "Counting:", "Other attributes:", "Questions and answers are below:")
_ABOUT = re.compile(r"About .+ \((.+)\):")
_FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_MOST_CHOICES = 4  # the checker is shown so many
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)


def tifa_prompt(caption: str) -> str:
    """The prompt of TIFA's released Llama 2; its `<s>` is part of the text, as there."""
    return f"<s>[INST] <<SYS>>\n{INTRODUCTION}\n<</SYS>>\n\nDescription: {caption} [/INST] Entities:"


def json_messages(caption: str) -> list[dict[str, str]]:
    """A chat that asks any instruct model for the same as JSON."""
    return [{"role": "user", "content": f"{INTRODUCTION}{JSON_TASK}\n\nDescription: {caption}"}]


def parse_tifa(text: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Read what TIFA's Llama 2 writes after "Entities:".

    Six lines of a header, then for each element `About ELEMENT (TYPE):` and one or more of `Q: `, `Choices: `, `A: `.
    A question with another form, type or answer is dropped; a text with another header wholly.

    Returns:
        Rows of `pairs.SCHEMA`'s questions, their type as `kind`, and counts of why others were dropped.
    """
    text, _, after = text.partition("\n\n")
    lines = [line.rstrip() for line in text.rstrip().split("\n")]
    if len(lines) < len(_HEADER) or not all(map(str.startswith, lines, _HEADER)):
        return [], Counter({"text without TIFA's header": 1})
    rows: list[dict[str, Any]] = []
    behind = sum(line.startswith("Q:") for line in after.split("\n"))
    dropped: Counter[str] = Counter({"behind a blank line": behind} if behind else {})
    kind = ""
    for block in _blocks(lines[len(_HEADER) :]):
        try:
            if block[0].startswith("About "):
                kind = _kind_of(block)
            else:
                rows.append(_tifa_row(block, kind))
        except Unusable as error:
            dropped[str(error)] += 1
    return rows, dropped


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """Lines from each `About ` or `Q:` to the next."""
    blocks: list[list[str]] = []
    for line in lines:
        if line.startswith(("About ", "Q:")) or not blocks:
            blocks.append([])
        blocks[-1].append(line)
    return blocks


def _kind_of(block: Sequence[str]) -> str:
    about = _ABOUT.fullmatch(block[0])
    return about[1] if about and len(block) == 1 else ""  # no type: the questions below it are dropped


def _tifa_row(block: Sequence[str], kind: str) -> dict[str, Any]:
    labels = ("Q:", "Choices:", "A:")
    if len(block) != len(labels) or not all(map(str.startswith, block, labels)):
        raise Unusable("not the lines Q, Choices, A")
    question, choices, answer = (line.removeprefix(label).strip() for line, label in zip(block, labels, strict=True))
    return _row(question, [choice for choice in re.split(r",\s+", choices) if choice], answer, kind)


def _row(question: Any, choices: Any, answer: Any, kind: Any) -> dict[str, Any]:
    if kind not in TYPES:
        raise Unusable("unknown type")
    row = question_row(question, choices, answer, "animal/human" if kind in ("animal", "human") else kind)
    if len(row["choices"]) > _MOST_CHOICES:
        raise Unusable("more than four choices")
    return row


def parse_json(text: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Read the JSON list that `json_messages` asks for, with or without a code fence around it; else as `parse_tifa`.

    Anything before or after the list, or another set of keys, is refused.
    """
    fenced = _FENCE.fullmatch(text)
    try:
        items = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return [], Counter({"text that is not JSON": 1})
    if not isinstance(items, list):
        return [], Counter({"JSON that is not a list": 1})
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item in items:
        try:
            if not isinstance(item, dict) or set(item) != {"question", "choices", "answer", "type"}:
                raise Unusable("other keys than question, choices, answer, type")
            rows.append(_row(item["question"], item["choices"], item["answer"], item["type"]))
        except Unusable as error:
            dropped[str(error)] += 1
    return rows, dropped


def choice_prompt(row: Mapping[str, Any], caption: str) -> str:
    """What the QA model is asked as multiple choice."""
    letters = "ABCD"
    choices = "".join(f"({letter}) {choice} " for letter, choice in zip(letters, row["choices"], strict=False))
    return f"{row['question']} \n {caption} \n {choices}"


def free_prompt(row: Mapping[str, Any], caption: str) -> str:
    """What the QA model is asked without choices."""
    return f"{row['question']} \n {caption}"


def agrees(row: Mapping[str, Any], chosen: str, free: str, *, min_f1: float) -> str:
    """Whether answers from the caption alone confirm a question.

    Args:
        row: the question.
        chosen: the QA model's answer among the choices: must be the answer.
        free: its answer without choices: must share words with the answer, unless that is yes or no.
        min_f1: least F1 of the words, not reached itself (official 0.6).

    Returns:
        Empty, or why the question is dropped.

    Source: TIFA, question_filter.py; letter case and punctuation do not count on either side here.
    """
    if plain(chosen) != plain(row["answer"]):
        return "caption says another choice"
    if plain(row["answer"]) in ("yes", "no"):
        return ""
    return "" if word_f1(_words(row["answer"]), _words(free)) > min_f1 else "caption does not say it freely"


def word_f1(gold: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of the words of an answer, each occurrence counted, as TIFA does."""
    hits = sum(word in answer for word in gold)
    wrong = sum(word not in gold for word in answer)
    if not hits:
        return float(not gold and not answer)
    precision, recall = hits / (hits + wrong), hits / len(gold)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    letters = "".join(letter for letter in plain(text) if letter.isalnum() or letter.isspace())
    return [str(_NUMBER_WORDS.index(word)) if word in _NUMBER_WORDS else word for word in letters.split()]
