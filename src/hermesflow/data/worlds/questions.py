"""Questions about a pair, made from its caption alone (what TIFA does at scale with a language model)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from hermesflow.core.seeding import seed_of
from hermesflow.data.worlds.language import Facts, Lexicon, Mention, article, parse_caption, phrase
from hermesflow.data.worlds.scenes import CELLS, DIRECTIONS, NUMBERS, RELATIONS, converse, relation_of

MAX_QUESTIONS = 10


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with a one-word answer."""

    question: str
    choices: tuple[str, ...]
    answer: str
    kind: str
    """`existence`, `color`, `size`, `count`, `relation`, `ground`, or what the world calls its nouns."""


def questions_of(caption: str, lexicon: Lexicon) -> list[Question]:
    """5 to 10 questions whose answers follow from the caption; the same caption gives the same questions.

    A caption names everything in its image, so what it does not name is not there. How many objects there are, how
    many of one kind, and things and traits that are not there are always asked: otherwise hardly a question notices an
    object too many, and a model that is paid by its answers learns to draw them
    (docs/decisions/0004-pair-dpo-micro.md). Kind `relation` also holds compositional questions ("what color is the
    object above the red circle ?").

    Raises:
        ValueError: the caption is not a sentence of the world.
    """
    return list(_questions_of(caption, lexicon))


def varied_questions_of(caption: str, lexicon: Lexicon, rng: Random) -> list[Question]:
    """Some 20 questions on everything a caption settles, drawn anew on every call: what the base model learns from.

    A model that hears the same two yes/no questions about a caption again and again learns them by heart; one that
    hears ever new ones has to look (docs/decisions/0003-base-model.md). Half the existence questions are answered
    "no"; some of those are easy, about any object that is not there.

    Raises:
        ValueError: the caption is not a sentence of the world.
    """
    facts = _facts_of(caption, lexicon)
    mentions = facts.mentions
    relations = [question for _ in range(2) for question in _relations(facts, lexicon, rng)]
    rng.shuffle(relations)
    absent = [_existence_no(mentions, lexicon, rng, anything=easy) for easy in (False, False, False, True)]
    return [
        *(_existence_yes(rng.choice(mentions)) for _ in absent),
        *absent,
        *(rng.choice(_traits(mentions, lexicon, rng, present=present)) for present in (True, True, False, False)),
        *relations[:8],
        _count_of_all(mentions),
        _count_of_all(mentions),
        *(question for make in (_colors, _nouns, _sizes, _counts) for question in make(mentions, lexicon, rng)),
        *_grounds(facts, lexicon, rng),
    ]


def vocabulary(lexicon: Lexicon) -> list[str]:
    """Every word of captions, questions, answers and the caption prompt, sorted."""
    sentences = (
        *lexicon.nouns, *lexicon.plurals.values(), *lexicon.colors, *lexicon.sizes,
        *CELLS, *NUMBERS, *RELATIONS, *DIRECTIONS,
        "a an and , . ? yes no the object objects",
        f"is there how many what color {lexicon.noun_word} is are where relative to",
        "describe the image",
        *(["size"] if lexicon.sizes else []),
        *(["ground", *lexicon.grounds, *lexicon.grounds.values()] if lexicon.grounds else []),
    )  # fmt: skip
    return sorted({word for sentence in sentences for word in sentence.split()})


@cache
def _questions_of(caption: str, lexicon: Lexicon) -> tuple[Question, ...]:
    facts = _facts_of(caption, lexicon)
    rng = Random(seed_of("questions", caption))
    mentions = facts.mentions
    relations = _relations(facts, lexicon, rng)
    rng.shuffle(relations)
    chosen = [
        _count_of_all(mentions),
        rng.choice(_counts(mentions, lexicon, rng)),
        *map(_existence_yes, rng.sample(mentions, min(2, len(mentions)))),
        _existence_no(mentions, lexicon, rng),
        *_traits(mentions, lexicon, rng, present=False),
        *relations[: 2 if _says_cells(mentions) else 3],
        *_grounds(facts, lexicon, rng),
    ]
    makers: list[Callable[[Sequence[Mention], Lexicon, Random], list[Question]]] = [_colors, _nouns, _sizes]
    rng.shuffle(makers)
    if _says_cells(mentions):
        makers.sort(key=lambda make: make is not _sizes)  # only dense captions say "large": ask there always
    elif rng.random() < 0.5:
        makers.remove(_sizes)  # the others say "small" or nothing: asked always, the answer would be nearly constant
    for make in makers:
        candidates = make(mentions, lexicon, rng)
        if candidates and len(chosen) < MAX_QUESTIONS:
            chosen.append(rng.choice(candidates))
    return tuple(dict.fromkeys(chosen))


def _facts_of(caption: str, lexicon: Lexicon) -> Facts:
    facts = parse_caption(caption, lexicon)
    if facts is None:
        raise ValueError(f"{caption!r} is not a caption of the world; questions can be made only for those.")
    return facts


def _says_cells(mentions: Sequence[Mention]) -> bool:
    return any(mention.cell is not None for mention in mentions)


def _yes_no(question: str, answer: bool, kind: str) -> Question:
    return Question(f"{question} ?", ("yes", "no"), "yes" if answer else "no", kind)


def _choice(question: str, answer: str, pool: Iterable[str], kind: str, rng: Random) -> Question:
    distractors = [word for word in pool if word != answer]
    choices = [answer, *rng.sample(distractors, min(3, len(distractors)))]
    rng.shuffle(choices)
    return Question(f"{question} ?", tuple(choices), answer, kind)


def _existence_yes(mention: Mention) -> Question:
    return _yes_no(f"is there {phrase(mention, color=True, size=None)}", True, "existence")


def _existence_no(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random, *, anything: bool = False) -> Question:
    mention = rng.choice(mentions)
    present = {(m.noun, m.color) for m in mentions}
    colors: list[str | None] = list(lexicon.colors) if mention.color else [None]
    same_color: list[tuple[str, str | None]] = [(noun, mention.color) for noun in lexicon.alike(mention.noun)]
    same_noun: list[tuple[str, str | None]] = [(mention.noun, color) for color in colors if color]
    kinds = [[(noun, color) for noun in lexicon.nouns for color in colors]] if anything else [same_color, same_noun]
    pools = [[look for look in pool if look not in present] for pool in kinds]
    noun, color = rng.choice(rng.choice([pool for pool in pools if pool]))
    return _yes_no(f"is there {phrase(Mention(1, noun, color), color=True, size=None)}", False, "existence")


def _traits(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random, *, present: bool) -> list[Question]:
    """Whether there is anything of some noun, and, where the caption says all colours, of some color."""
    nouns = [noun for noun in lexicon.nouns if (noun in {m.noun for m in mentions}) == present]
    named = {m.color for m in mentions}
    colors = [] if None in named else [color for color in lexicon.colors if (color in named) == present]
    noun = rng.choice(nouns)
    questions = [_yes_no(f"is there {article(noun)} {noun}", present, "existence")]
    if colors:
        color = rng.choice(colors)
        questions.append(_yes_no(f"is there {article(color)} {color} object", present, "existence"))
    return questions


def _name(mention: Mention) -> str:
    """What the questions call a mentioned object: colour (if given) and noun; no two mentions share it."""
    return f"the {mention.color} {mention.noun}" if mention.color else f"the {mention.noun}"


def _subject(mention: Mention, name: str, plurals: Mapping[str, str]) -> str:
    """Verb and noun in the right number: "is the circle", "are the circles"."""
    words = name.split()
    plural = {**plurals, "object": "objects"}[words[-1]]
    return f"is the {name}" if mention.count == 1 else f"are the {' '.join([*words[:-1], plural])}"


def _colors(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random) -> list[Question]:
    nouns = [m.noun for m in mentions]
    return [
        _choice(f"what color {_subject(m, m.noun, lexicon.plurals)}", m.color, lexicon.colors, "color", rng)
        for m in mentions
        if m.color and nouns.count(m.noun) == 1
    ]


def _nouns(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random) -> list[Question]:
    what, colors = lexicon.noun_word, [m.color for m in mentions]
    names = (
        [(m, "object") for m in mentions]
        if len(mentions) == 1
        else [(m, f"{m.color} object") for m in mentions if m.color and colors.count(m.color) == 1]
    )
    return [
        _choice(f"what {what} {_subject(m, name, lexicon.plurals)}", m.noun, lexicon.nouns, what, rng)
        for m, name in names
    ]


def _sizes(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random) -> list[Question]:
    return [_choice(f"what size is {_name(m)}", m.size, lexicon.sizes, "size", rng) for m in mentions if m.size]


def _counts(mentions: Sequence[Mention], lexicon: Lexicon, rng: Random) -> list[Question]:
    of_nouns = [_count(lexicon.plurals[m.noun], (o for o in mentions if o.noun == m.noun)) for m in mentions]
    return of_nouns + [
        _count(f"{m.color} objects", (o for o in mentions if o.color == m.color)) for m in mentions if m.color
    ]


def _grounds(facts: Facts, lexicon: Lexicon, rng: Random) -> list[Question]:
    return [] if facts.ground is None else [_choice("what is the ground", facts.ground, lexicon.grounds, "ground", rng)]


def _count_of_all(mentions: Sequence[Mention]) -> Question:
    return _count("objects", mentions)


def _count(noun: str, matching: Iterable[Mention]) -> Question:
    total = sum(mention.count for mention in matching)
    return Question(f"how many {noun} ?", NUMBERS, NUMBERS[total - 1], "count")


def _relations(facts: Facts, lexicon: Lexicon, rng: Random) -> list[Question]:
    mentions = facts.mentions
    relations = list(facts.relations)
    for a, first in enumerate(mentions):
        for b, second in enumerate(mentions[a + 1 :], start=a + 1):
            if first.cell is not None and second.cell is not None:
                relation = relation_of(first.cell, second.cell)
                relations += [(a, relation, b)] if relation else []
    questions = []
    for a, relation, b in relations:
        if rng.random() < 0.5:
            a, relation, b = b, converse(relation), a
        questions += _pair_questions(mentions[a], relation, mentions[b], lexicon, rng)
    for mention in mentions:
        if mention.cell is not None:
            cell = mention.cell if rng.random() < 0.5 else rng.choice([c for c in range(4) if c != mention.cell])
            questions.append(_yes_no(f"is {_name(mention)} {CELLS[cell]}", cell == mention.cell, "relation"))
    return questions


def _pair_questions(first: Mention, relation: str, second: Mention, lexicon: Lexicon, rng: Random) -> list[Question]:
    """Yes/no, where, and compositional questions about `first` lying in `relation` to `second`."""
    true = rng.random() < 0.5
    claim = relation if true else converse(relation)
    direction = relation.split()[0]
    where = Question(f"where is {_name(first)} relative to {_name(second)} ?", DIRECTIONS, direction, "relation")
    subject = f"is the object {relation} {_name(second)}"
    questions = [
        _yes_no(f"is {_name(first)} {claim} {_name(second)}", true, "relation"),
        where,
        _choice(f"what {lexicon.noun_word} {subject}", first.noun, lexicon.nouns, "relation", rng),
    ]
    if first.color:
        questions.append(_choice(f"what color {subject}", first.color, lexicon.colors, "relation", rng))
    return questions
