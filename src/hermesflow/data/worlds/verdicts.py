"""What follows from a scene the judge has read: answers to questions, whether a caption holds, how right it is."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import permutations

from hermesflow.data.worlds.language import Facts, Lexicon, Mention, parse_caption
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import CELLS, NUMBERS, RELATIONS, Scene, SceneObject, converse, relation_of


def answer(scene: Scene, question: Question, lexicon: Lexicon) -> str | None:
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
    for name, pattern in _grammar(lexicon).items():
        match = pattern.fullmatch(text)
        if match:
            parts = {key: value.strip() for key, value in match.groupdict().items()}
            return _ANSWERS[name](scene, parts, lexicon)
    raise ValueError(f"{question.question!r} is not a question of the world (see data/worlds/questions.py).")


def accepts(scene: Scene, caption: str, lexicon: Lexicon) -> bool:
    """Whether everything the caption says holds and the scene has no further objects.

    A caption that is not a sentence of the world is not accepted.
    """
    facts = parse_caption(caption, lexicon)
    if facts is None or facts.ground not in (None, scene.ground):
        return False
    owners = [index for index, mention in enumerate(facts.mentions) for _ in range(mention.count)]
    if len(owners) != len(scene.objects):
        return False
    return any(_holds(facts, owners, order) for order in permutations(scene.objects))


def caption_facts_f1(candidate: str, reference: Scene | str, lexicon: Lexicon) -> float:
    """F1 of what a caption says against what is true (a scene) or what a reference caption says.

    Facts are objects, their colour, size and cell, their numbers, and relations between named objects; "a below b"
    is the fact "b above a".

    Args:
        candidate: any text; one that is not a sentence of the world says nothing and scores 0.
        reference: everything visible in a scene, or what another caption says.
        lexicon: words of the world.

    Raises:
        ValueError: the reference caption is not a sentence of the world.
    """
    claims = parse_caption(candidate, lexicon)
    facts = _facts_of(reference) if isinstance(reference, Scene) else parse_caption(reference, lexicon)
    if facts is None:
        raise ValueError(f"reference caption {reference!r} is not a sentence of the world.")
    if claims is None:
        return 0.0
    ours, theirs = _fact_counts(claims), _fact_counts(facts)
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def _facts_of(scene: Scene) -> Facts:
    things = [thing for thing in scene.objects if thing.noun is not None]
    mentions = tuple(Mention(1, str(t.noun), t.color, t.size, t.cell) for t in things)
    pairs = [(a, b) for a in range(len(things)) for b in range(a + 1, len(things))]
    relations = [(a, relation_of(things[a].cell, things[b].cell), b) for a, b in pairs]
    return Facts(mentions, tuple((a, relation, b) for a, relation, b in relations if relation), scene.ground)


def _fact_counts(facts: Facts) -> Counter[tuple[object, ...]]:
    counts: Counter[tuple[object, ...]] = Counter()
    looks: Counter[tuple[str, str | None]] = Counter()
    for mention in facts.mentions:
        look = (mention.noun, mention.color)
        looks[look] += mention.count
        counts["noun", mention.noun] += mention.count
        if mention.color is not None:
            counts["color", *look] += mention.count
        if mention.size is not None:
            counts["size", *look, mention.size] += mention.count
        if mention.cell is not None:
            counts["cell", *look, mention.cell] += mention.count
    if facts.ground is not None:
        counts["ground", facts.ground] += 1
    for look, number in looks.items():
        counts["number", *look, number] += 1
    for a, relation, b in facts.relations:
        if relation in ("below", "right of"):
            a, relation, b = b, converse(relation), a
        first, second = facts.mentions[a], facts.mentions[b]
        counts["relation", first.noun, first.color, relation, second.noun, second.color] += 1
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


@cache
def _grammar(lexicon: Lexicon) -> dict[str, re.Pattern[str]]:
    words = [*lexicon.sizes, *lexicon.colors, *lexicon.plurals.values(), *lexicon.nouns, "objects", "object"]
    noun, relation = rf"(?:(?:{'|'.join(words)}) ?)+", "|".join(RELATIONS)
    what = f"(?P<what>color|{lexicon.noun_word}|size)"
    patterns = {
        "existence": rf"is there an? (?P<a>{noun})",
        "count": rf"how many (?P<a>{noun})",
        "ground": "what is the ground",
        "neighbour": rf"what {what} is the object (?P<relation>{relation}) the (?P<b>{noun})",
        "attribute": rf"what {what} (?:is|are) the (?P<a>{noun})",
        "relation": rf"is the (?P<a>{noun}) (?P<relation>{relation}) the (?P<b>{noun})",
        "where": rf"where is the (?P<a>{noun}) relative to the (?P<b>{noun})",
        "cell": rf"is the (?P<a>{noun}) (?P<cell>{'|'.join(CELLS)})",
    }
    return {name: re.compile(pattern) for name, pattern in patterns.items()}


def _fitting(scene: Scene, name: str, lexicon: Lexicon) -> list[SceneObject]:
    """Objects that a noun phrase fits; "object" fits every one."""
    fitting = list(scene.objects)
    for word in name.split():
        if word in lexicon.sizes:
            fitting = [thing for thing in fitting if thing.size == word]
        elif word in lexicon.colors:
            fitting = [thing for thing in fitting if thing.color == word]
        elif word not in ("object", "objects"):
            noun = next(noun for noun, plural in lexicon.plurals.items() if word in (noun, plural))
            fitting = [thing for thing in fitting if thing.noun == noun]
    return fitting


def _the(scene: Scene, name: str, lexicon: Lexicon) -> SceneObject | None:
    fitting = _fitting(scene, name, lexicon)
    return fitting[0] if len(fitting) == 1 else None


def _value(thing: SceneObject, what: str) -> str | None:
    return {"color": thing.color, "size": thing.size}.get(what, thing.noun)


def _existence(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    return "yes" if _fitting(scene, parts["a"], lexicon) else "no"


def _count(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    return ("zero", *NUMBERS)[len(_fitting(scene, parts["a"], lexicon))]


def _ground(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    return scene.ground


def _attribute(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    values = {_value(thing, parts["what"]) for thing in _fitting(scene, parts["a"], lexicon)}
    return values.pop() if len(values) == 1 else None


def _neighbour(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    anchor = _the(scene, parts["b"], lexicon)
    if anchor is None:
        return None
    beside = [thing for thing in scene.objects if relation_of(thing.cell, anchor.cell) == parts["relation"]]
    return _value(beside[0], parts["what"]) if beside else None


def _relation(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    first, second = _the(scene, parts["a"], lexicon), _the(scene, parts["b"], lexicon)
    if first is None or second is None:
        return None
    return "yes" if relation_of(first.cell, second.cell) == parts["relation"] else "no"


def _where(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    first, second = _the(scene, parts["a"], lexicon), _the(scene, parts["b"], lexicon)
    relation = relation_of(first.cell, second.cell) if first and second else None
    return relation.split()[0] if relation else None


def _cell(scene: Scene, parts: dict[str, str], lexicon: Lexicon) -> str | None:
    thing = _the(scene, parts["a"], lexicon)
    return None if thing is None else "yes" if CELLS[thing.cell] == parts["cell"] else "no"


_ANSWERS = {
    "existence": _existence,
    "count": _count,
    "ground": _ground,
    "neighbour": _neighbour,
    "attribute": _attribute,
    "relation": _relation,
    "where": _where,
    "cell": _cell,
}
