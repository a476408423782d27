"""Understanding benchmarks on held-out real images: micro counterparts of POPE, MME, CIDEr, VQA and GQA.

Every question is worded as the base model's training questions are (`data.questions`), so that the figures measure
sight and not vocabulary. Truth is what the caption says; captions of the world name everything in their image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import pandas as pd

from hermesflow.core.seeding import seed_of
from hermesflow.data.worlds.language import Facts, Lexicon, Mention, phrase
from hermesflow.data.worlds.scenes import CELLS, NUMBERS, converse, relation_of
from hermesflow.data.worlds.world import World
from hermesflow.evaluation.evaluated import UNIT_COLUMNS

POOL = "understanding"
ANSWER_COLUMNS = ("benchmark", "task", "id", "question", "answer", "prediction", "right")
MOST_OBJECTS = 3  # POPE asks about so many present and as many absent objects per image

Look = tuple[str, str | None]
"""Noun and colour of an object; colour None where captions leave it unsaid."""


@dataclass(frozen=True)
class Item:
    """One question of one benchmark about one image."""

    benchmark: str
    task: str
    id: str
    question: str
    answer: str


def items_of(pairs: Iterable[Mapping[str, Any]], world: World) -> list[Item]:
    """All questions of all benchmarks about the images of a split.

    Args:
        pairs: rows of the pair schema (id, caption, questions); captions that are not of the world get no POPE and
            no MME questions.
        world: whose captions they are.
    """
    rows = list(pairs)
    facts = {row["id"]: content for row in rows if (content := world.parse_caption(row["caption"])) is not None}
    items = pope_items({key: looks_of(content) for key, content in facts.items()}, world.lexicon)
    items += [item for key, content in facts.items() for item in mme_items(key, content, world.lexicon)]
    for row in rows:
        for question in row["questions"]:
            fields = (row["id"], question["question"], question["answer"])
            items.append(Item("vqa", question["kind"], *fields))
            if question["kind"] == "relation":
                items.append(Item("gqa", question["kind"], *fields))
    return items


def looks_of(facts: Facts) -> tuple[Look, ...]:
    """The different (noun, colour) that a caption names, in its order."""
    return tuple(dict.fromkeys((m.noun, m.color) for m in facts.mentions))


def pope_items(images: Mapping[str, Sequence[Look]], lexicon: Lexicon) -> list[Item]:
    """Existence questions: for each image as many absent as present objects, absent ones chosen in three ways.

    `random`: any absent object; `popular`: the absent objects most frequent in the split; `adversarial`: the absent
    objects that have most in common with what is there (colour and noun both present, then one of them). POPE takes
    frequent companions here; objects of a small world have no habitual companions, but the reason is the same:
    what a model most likely makes up.

    Args:
        images: id -> looks in the image.
        lexicon: words of the world.

    Source: Li et al. 2023 (POPE), section 5.
    """
    frequency = Counter(look for looks in images.values() for look in looks)
    items = []
    for key, looks in images.items():
        rng = Random(seed_of("pope", key))
        present = list(looks)[:MOST_OBJECTS]
        absent = [look for look in _all_looks(lexicon, colored=looks[0][1] is not None) if look not in looks]
        rng.shuffle(absent)  # sorting is stable: ties are in random order
        chosen = {
            "random": absent,
            "popular": sorted(absent, key=lambda look: -frequency[look]),
            "adversarial": sorted(absent, key=lambda look, here=looks: -_in_common(look, here)),  # type: ignore[misc]
        }
        for task, ranked in chosen.items():
            items += [Item("pope", task, key, _existence(look), "yes") for look in present]
            items += [Item("pope", task, key, _existence(look), "no") for look in ranked[: len(present)]]
    return items


def mme_items(key: str, facts: Facts, lexicon: Lexicon) -> list[Item]:
    """Two questions per image and task, where the caption says enough: existence, count, position, color.

    A pair of yes/no questions has one "yes" and one "no". Counting is asked openly (how many objects in all, how many
    of one noun), because no training question counts by yes or no.

    Source: Fu et al. 2023 (MME): two questions per image; accuracy and accuracy+.
    """
    rng = Random(seed_of("mme", key))
    looks = looks_of(facts)
    mentions = facts.mentions
    noun, color = rng.choice(looks)
    questions: dict[str, list[tuple[str, str]]] = {}
    absent = [n for n in lexicon.nouns if n not in {look[0] for look in looks}]
    if absent:
        questions["existence"] = [(_existence((noun, color)), "yes"), (_existence((rng.choice(absent), color)), "no")]
    total, same = (sum(m.count for m in mentions if m.noun == n or n is None) for n in (None, noun))
    questions["count"] = [
        ("how many objects ?", NUMBERS[total - 1]),
        (f"how many {lexicon.plurals[noun]} ?", NUMBERS[same - 1]),
    ]
    positions = _positions(facts)
    if positions:
        true, false = rng.choice(positions)
        questions["position"] = [(true, "yes"), (false, "no")]
    if color is not None:
        other_colors = [c for c in lexicon.colors if (noun, c) not in looks]
        questions["color"] = [(_existence((noun, color)), "yes"), (_existence((noun, rng.choice(other_colors))), "no")]
    return [Item("mme", task, key, *pair) for task, pairs in questions.items() for pair in pairs]


def grade(items: Sequence[Item], predictions: Sequence[str]) -> pd.DataFrame:
    """Compare free answers with the truth.

    POPE takes every answer without "no" or "not" as "yes", as its released code does; the other benchmarks want the
    answer itself.

    Returns:
        One row per item: ANSWER_COLUMNS.
    """
    rows = []
    for item, free in zip(items, predictions, strict=True):
        prediction = yes_or_no(free) if item.benchmark == "pope" else " ".join(free.lower().split())
        rows.append({**asdict(item), "prediction": prediction, "right": prediction == item.answer})
    return pd.DataFrame(rows, columns=list(ANSWER_COLUMNS))


def yes_or_no(answer: str) -> str:
    """POPE's reading of a free answer."""
    return "no" if {"no", "not"} & set(answer.lower().replace(",", " ").replace(".", " ").split()) else "yes"


def cider_scores(captions: Mapping[str, str], references: Mapping[str, str]) -> dict[str, float]:
    """CIDEr of each caption with one reference each; document frequencies are those of all references.

    pycocoevalcap's scorer as it is, between 0 and 10. Its Java tokenizer is left out: the world's sentences are
    lower-case words between spaces already.

    Args:
        captions: id -> caption.
        references: id -> true caption; the same ids.

    Source: Vedantam et al. 2015 (CIDEr-D, n = 4, sigma = 6).
    """
    from pycocoevalcap.cider.cider import Cider

    ids = sorted(references)
    _, scores = Cider().compute_score({i: [references[i]] for i in ids}, {i: [captions[i]] for i in ids})
    return {i: float(score) for i, score in zip(ids, scores, strict=True)}


def answer_units(answers: pd.DataFrame) -> pd.DataFrame:
    """Numerators and denominators per image of POPE, MME, VQA and GQA: UNIT_COLUMNS.

    MME's figure of a task is 100 * (accuracy + accuracy+), where accuracy+ wants both questions of an image right.
    """
    rows: list[tuple[str, object, float, int]] = []
    for (benchmark, task), group in answers.groupby(["benchmark", "task"], sort=True):
        for key, unit in group.groupby("id", sort=True):
            right = int(unit["right"].sum())
            if benchmark == "pope":
                yes, positive = unit["answer"] == "yes", unit["prediction"] == "yes"
                hits = int((yes & positive).sum())
                rows.append((f"pope/{task}/accuracy", key, right, len(unit)))
                rows.append((f"pope/{task}/f1", key, 2 * hits, int(yes.sum() + positive.sum())))
            elif benchmark == "mme":
                rows.append((f"mme/{task}", key, 100 * (right / len(unit) + (right == len(unit))), 1))
    for benchmark in ("vqa", "gqa"):
        group = answers[answers["benchmark"] == benchmark]
        sums = group.groupby("id", sort=True)["right"].agg(["sum", "count"])
        rows += [(benchmark, key, right, count) for key, right, count in sums.itertuples()]
    return units_table([(metric, POOL, *fields) for metric, *fields in rows])


def caption_units(captions: pd.DataFrame) -> pd.DataFrame:
    """CIDEr per image: UNIT_COLUMNS.

    Args:
        captions: columns id, cider.
    """
    return units_table(
        [("cider", POOL, key, score, 1) for key, score in zip(captions["id"], captions["cider"], strict=True)]
    )


def units_table(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows of UNIT_COLUMNS as a table with float sums."""
    table = pd.DataFrame(rows, columns=list(UNIT_COLUMNS))
    return table.astype({"numerator": float, "denominator": float})


def _all_looks(lexicon: Lexicon, *, colored: bool) -> list[Look]:
    return [(noun, color) for noun in lexicon.nouns for color in (lexicon.colors if colored else (None,))]


def _in_common(look: Look, present: Sequence[Look]) -> int:
    return (look[0] in {noun for noun, _ in present}) + (look[1] is not None and look[1] in {c for _, c in present})


def _existence(look: Look) -> str:
    return f"is there {phrase(Mention(1, *look), color=True, size=None)} ?"


def _positions(facts: Facts) -> list[tuple[str, str]]:
    """(true, false) statements about where things are, as questions."""
    mentions = facts.mentions
    names = [f"the {m.color} {m.noun}" if m.color else f"the {m.noun}" for m in mentions]
    relations = list(facts.relations)
    for b, second in enumerate(mentions):
        for a, first in enumerate(mentions[:b]):
            relation = None if first.cell is None or second.cell is None else relation_of(first.cell, second.cell)
            relations += [(a, relation, b)] if relation else []
    statements = [
        (f"is {names[a]} {relation} {names[b]} ?", f"is {names[a]} {converse(relation)} {names[b]} ?")
        for a, relation, b in relations
    ]
    for name, mention in zip(names, mentions, strict=True):
        if mention.cell is not None:
            statements.append((f"is {name} {CELLS[mention.cell]} ?", f"is {name} {CELLS[3 - mention.cell]} ?"))
    return statements
