"""What follows from a scene the judge has read: answers to questions, whether a caption holds, how right it is."""

from __future__ import annotations

import re
from collections import Counter
from itertools import permutations

from hermesflow.data.microworld.captions import (
    NUMBERS,
    PLURALS,
    RELATIONS,
    Facts,
    Mention,
    converse,
    parse_caption,
    relation_of,
)
from hermesflow.data.microworld.questions import Question
from hermesflow.data.microworld.scenes import CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject

_NOUN = rf"(?:(?:{'|'.join([*SIZES, *COLORS, *PLURALS.values(), *SHAPES, 'objects', 'object'])}) ?)+"
_RELATION = "|".join(RELATIONS)
_GRAMMAR = {
    name: re.compile(pattern)
    for name, pattern in {
        "existence": rf"is there an? (?P<a>{_NOUN})",
        "count": rf"how many (?P<a>{_NOUN})",
        "neighbour": rf"what (?P<what>color|shape|size) is the object (?P<relation>{_RELATION}) the (?P<b>{_NOUN})",
        "attribute": rf"what (?P<what>color|shape|size) (?:is|are) the (?P<a>{_NOUN})",
        "relation": rf"is the (?P<a>{_NOUN}) (?P<relation>{_RELATION}) the (?P<b>{_NOUN})",
        "where": rf"where is the (?P<a>{_NOUN}) relative to the (?P<b>{_NOUN})",
        "cell": rf"is the (?P<a>{_NOUN}) (?P<cell>{'|'.join(CELLS)})",
    }.items()
}


def answer(scene: Scene, question: Question) -> str | None:
    """Answer a question from a scene alone, by its wording; `question.choices` and `.answer` are not looked at.

    "The X" must fit exactly one object in questions of place, and objects that share the asked attribute in the
    others. "above" and the like hold within a column or a row, as in the captions.

    Returns:
        One word ("zero" for none), or None if the scene does not settle it: what is asked about is not there, not
        unique or unreadable.

    Raises:
        ValueError: the question is not of a wording that `questions_of` makes.
    """
    text = question.question.lower().rstrip("? ")
    for name, pattern in _GRAMMAR.items():
        match = pattern.fullmatch(text)
        if match:
            parts = {key: value.strip() for key, value in match.groupdict().items()}
            return _ANSWERS[name](scene, parts)
    raise ValueError(f"{question.question!r} is not a question of the micro world (see data/questions.py).")


def accepts(scene: Scene, caption: str) -> bool:
    """Whether everything the caption says holds and the scene has no further objects.

    A caption that is not a sentence of the world is not accepted.
    """
    facts = parse_caption(caption)
    if facts is None:
        return False
    owners = [index for index, mention in enumerate(facts.mentions) for _ in range(mention.count)]
    if len(owners) != len(scene.objects):
        return False
    return any(_holds(facts, owners, order) for order in permutations(scene.objects))


def caption_facts_f1(candidate: str, reference: Scene | str) -> float:
    """F1 of what a caption says against what is true (a scene) or what a reference caption says.

    Facts are objects, their colour, size and cell, their numbers, and relations between named objects; "a below b"
    is the fact "b above a".

    Args:
        candidate: any text; one that is not a sentence of the world says nothing and scores 0.
        reference: everything visible in a scene, or what another caption says.

    Raises:
        ValueError: the reference caption is not a sentence of the world.
    """
    claims = parse_caption(candidate)
    facts = _facts_of(reference) if isinstance(reference, Scene) else parse_caption(reference)
    if facts is None:
        raise ValueError(f"reference caption {reference!r} is not a sentence of the micro world.")
    if claims is None:
        return 0.0
    ours, theirs = _fact_counts(claims), _fact_counts(facts)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def _facts_of(scene: Scene) -> Facts:
    things = [thing for thing in scene.objects if thing.shape is not None]
    mentions = tuple(Mention(1, str(t.shape), t.color, t.size, t.cell) for t in things)
    pairs = [(a, b) for a in range(len(things)) for b in range(a + 1, len(things))]
    relations = [(a, relation_of(things[a].cell, things[b].cell), b) for a, b in pairs]
    return Facts(mentions, tuple((a, relation, b) for a, relation, b in relations if relation))


def _fact_counts(facts: Facts) -> Counter[tuple[object, ...]]:
    counts: Counter[tuple[object, ...]] = Counter()
    looks: Counter[tuple[str, str | None]] = Counter()
    for mention in facts.mentions:
        look = (mention.shape, mention.color)
        looks[look] += mention.count
        counts["shape", mention.shape] += mention.count
        if mention.color is not None:
            counts["color", *look] += mention.count
        if mention.size is not None:
            counts["size", *look, mention.size] += mention.count
        if mention.cell is not None:
            counts["cell", *look, mention.cell] += mention.count
    for look, number in looks.items():
        counts["number", *look, number] += 1
    for a, relation, b in facts.relations:
        if relation in ("below", "right of"):
            a, relation, b = b, converse(relation), a
        first, second = facts.mentions[a], facts.mentions[b]
        counts["relation", first.shape, first.color, relation, second.shape, second.color] += 1
    return counts


def _holds(facts: Facts, owners: list[int], order: tuple[SceneObject, ...]) -> bool:
    if not all(facts.mentions[owner].matches(thing) for owner, thing in zip(owners, order, strict=True)):
        return False
    groups: dict[int, list[SceneObject]] = {}
    for owner, thing in zip(owners, order, strict=True):
        groups.setdefault(owner, []).append(thing)
    return all(
        relation_of(first.cell, second.cell) == relation
        for a, relation, b in facts.relations
        for first in groups[a]
        for second in groups[b]
    )


def _fitting(scene: Scene, noun: str) -> list[SceneObject]:
    """Objects that a noun phrase fits; "object" fits every one."""
    fitting = list(scene.objects)
    for word in noun.split():
        if word in SIZES:
            fitting = [thing for thing in fitting if thing.size == word]
        elif word in COLORS:
            fitting = [thing for thing in fitting if thing.color == word]
        elif word not in ("object", "objects"):
            shape = next(shape for shape in SHAPES if word in (shape, PLURALS[shape]))
            fitting = [thing for thing in fitting if thing.shape == shape]
    return fitting


def _the(scene: Scene, noun: str) -> SceneObject | None:
    fitting = _fitting(scene, noun)
    return fitting[0] if len(fitting) == 1 else None


def _existence(scene: Scene, parts: dict[str, str]) -> str | None:
    return "yes" if _fitting(scene, parts["a"]) else "no"


def _count(scene: Scene, parts: dict[str, str]) -> str | None:
    return ("zero", *NUMBERS)[len(_fitting(scene, parts["a"]))]


def _attribute(scene: Scene, parts: dict[str, str]) -> str | None:
    values = {getattr(thing, parts["what"]) for thing in _fitting(scene, parts["a"])}
    return values.pop() if len(values) == 1 else None


def _neighbour(scene: Scene, parts: dict[str, str]) -> str | None:
    anchor = _the(scene, parts["b"])
    if anchor is None:
        return None
    there = [thing for thing in scene.objects if relation_of(thing.cell, anchor.cell) == parts["relation"]]
    return getattr(there[0], parts["what"]) if there else None


def _relation(scene: Scene, parts: dict[str, str]) -> str | None:
    first, second = _the(scene, parts["a"]), _the(scene, parts["b"])
    if first is None or second is None:
        return None
    return "yes" if relation_of(first.cell, second.cell) == parts["relation"] else "no"


def _where(scene: Scene, parts: dict[str, str]) -> str | None:
    first, second = _the(scene, parts["a"]), _the(scene, parts["b"])
    relation = relation_of(first.cell, second.cell) if first and second else None
    return relation.split()[0] if relation else None


def _cell(scene: Scene, parts: dict[str, str]) -> str | None:
    thing = _the(scene, parts["a"])
    return None if thing is None else "yes" if CELLS[thing.cell] == parts["cell"] else "no"


_ANSWERS = {
    "existence": _existence,
    "count": _count,
    "neighbour": _neighbour,
    "attribute": _attribute,
    "relation": _relation,
    "where": _where,
    "cell": _cell,
}
