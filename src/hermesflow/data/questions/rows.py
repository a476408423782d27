"""Multiple-choice questions from outside: what makes one usable, and several lists of them as one."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class Unusable(ValueError):
    """A question cannot be used; the text is the reason, in the same words for the same fault: it is counted."""


def question_row(question: Any, choices: Any, answer: Any, kind: str) -> dict[str, Any]:
    """One row of the questions in `pairs.SCHEMA`, its answer spelled as its choice.

    Raises:
        Unusable: not texts, fewer than two different choices, or an answer that is none of them.
    """
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no question")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not all(isinstance(c, str) for c in choices):
        raise Unusable("choices are not texts")
    texts = [" ".join(choice.split()) for choice in choices]
    if len(texts) < 2 or len({plain(text) for text in texts}) < len(texts) or not all(texts):
        raise Unusable("fewer than two different choices")
    if not isinstance(answer, str):
        raise Unusable("no answer")
    right = next((text for text in texts if plain(text) == plain(answer)), None)
    if right is None:
        raise Unusable("the answer is not one of the choices")
    if not is_unicode("".join([question, *texts, kind])):
        raise Unusable("text that is not UTF-8")
    return {"question": " ".join(question.split()), "choices": texts, "answer": right, "kind": kind}


def rows_of(items: Any, kind: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows of a list of `{question, choices, answer}` and perhaps `kind`, or of its JSON; None and "" are no questions.

    Returns:
        The rows, and why others were dropped.
    """
    if isinstance(items, str):  # a table that is text alone
        try:
            items = json.loads(items) if items.strip() else None
        except (ValueError, RecursionError):
            return [], Counter({"questions that are not JSON": 1})
    if items is not None and not isinstance(items, list):
        return [], Counter({"questions that are not a list": 1})
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item in items or ():
        try:
            if not isinstance(item, Mapping):
                raise Unusable("not a question with choices and answer")
            item = {str(key).strip().lower(): value for key, value in item.items()}
            question_kind = item.get("kind") or kind
            rows.append(question_row(item.get("question"), item.get("choices"), item.get("answer"), str(question_kind)))
        except Unusable as error:
            dropped[str(error)] += 1
    return rows, dropped


def merge(lists: Iterable[Sequence[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[int]]:
    """Lists of questions as one; of the same question (letter case, spaces and question mark aside) the first is kept.

    Returns:
        The questions, and how many of each list were repeats.
    """
    seen: set[str] = set()
    merged: list[dict[str, Any]] = []
    repeats: list[int] = []
    for rows in lists:
        before = len(merged)
        for row in rows:
            key = plain(row["question"]).rstrip(" ?.")
            if key not in seen:
                seen.add(key)
                merged.append(row)
        repeats.append(len(rows) - (len(merged) - before))
    return merged, repeats


def plain(text: str) -> str:
    """A text without differences in letter case, spaces, and how accents are written (one character or two)."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: a lone surrogate, as JSON may have it, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
