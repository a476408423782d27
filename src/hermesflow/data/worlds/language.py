"""The sentences of a world: noun phrases, and what a caption says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from hermesflow.core import registry
from hermesflow.core.seeding import seed_of
from hermesflow.data.worlds.scenes import CELLS, NUMBERS, RELATIONS, SceneObject, converse

WORLDS = ("microworld", "pictures")
"""Packages of `hermesflow.data` with a `captions.LEXICON` and a `world.WORLD`: values of `data.source`."""
GENEVAL_KINDS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
KINDS = (*GENEVAL_KINDS, "dense")
OWN = "own_"
"""Before the kind of a prompt that is GenEval's own."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Lexicon:
    """The words of a world; each is one word."""

    noun_word: str
    """What questions call the noun: "what shape is the red object ?"."""
    plurals: Mapping[str, str]
    """Every noun and its plural."""
    groups: tuple[tuple[str, ...], ...]
    """Nouns that are easily taken for each other."""
    colors: tuple[str, ...]
    sizes: tuple[str, ...] = ()
    grounds: Mapping[str, str] = field(default_factory=dict)
    """Every ground, and the two or three words that say it in a caption."""

    @property
    def nouns(self) -> tuple[str, ...]:
        """All nouns."""
        return tuple(self.plurals)

    def alike(self, noun: str) -> tuple[str, ...]:
        """The noun's group."""
        return next(group for group in self.groups if noun in group)


@dataclass(frozen=True)
class Mention:
    """One noun phrase: how many of what, and where, if given."""

    count: int
    noun: str
    color: str | None = None
    size: str | None = None
    cell: int | None = None

    def matches(self, thing: SceneObject) -> bool:
        """Whether everything the phrase states about each of these objects holds for `thing`."""
        pairs = ((self.noun, thing.noun), (self.color, thing.color), (self.size, thing.size), (self.cell, thing.cell))
        return all(word is None or word == seen for word, seen in pairs)


@dataclass(frozen=True)
class Facts:
    """What a caption says."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...]
    """(a, relation, b): mention a is above / below / left of / right of mention b."""
    ground: str | None = None

    @property
    def content(self) -> str:
        """What is said, alike for all orders of words that say it: the key that splits captions."""
        objects = sorted((str(m.noun), str(m.color), str(m.size), str(m.cell), m.count) for m in self.mentions)
        related = []
        for a, relation, b in self.relations:
            if relation in ("below", "right of"):
                a, relation, b = b, converse(relation), a
            related.append((str(self.mentions[a]), relation, str(self.mentions[b])))
        return repr((objects, sorted(related), self.ground))


def lexicon_of(name: str) -> Lexicon:
    """The words of one of `WORLDS`."""
    return registry.load("hermesflow.data", f"{name}.captions", "LEXICON")


def article(word: str) -> str:
    """`a` or `an`."""
    return "an" if word[0] in "aeiou" else "a"


def phrase(thing: SceneObject | Mention, *, color: bool, size: str | None) -> str:
    """A noun phrase, e.g. "a small red circle"; `size` is the size word to say, if any."""
    words = [word for word in (size, thing.color if color else None, thing.noun) if word]
    return f"{article(words[0])} {' '.join(words)}"


def parse_caption(text: str, lexicon: Lexicon) -> Facts | None:
    """Read a caption of a world, or a model's free text that is close to one.

    Lenient: letter case, a missing article, a comma instead of "and", a full stop. Every word must be understood.

    Returns:
        What the text says, or None if it is not a sentence of the world.
    """
    words = text.lower().replace(",", " , ").replace(".", " ").split()
    ground = None
    for name, says in lexicon.grounds.items():
        if " ".join(words).endswith(f" {says}"):
            ground, words = name, words[: -len(says.split())]
    mentions: list[Mention] = []
    relations: list[tuple[int, str, int]] = []
    position = 0
    while position < len(words):
        if mentions:
            joint, position = _joint(words, position)
            if joint is None:
                return None
            if joint in RELATIONS:
                relations.append((len(mentions) - 1, joint, len(mentions)))
        mention, position = _mention(words, position, lexicon)
        if mention is None:
            return None
        mentions.append(mention)
    return Facts(tuple(mentions), tuple(relations), ground) if mentions else None


def wrong_captions(caption: str, lexicon: Lexicon) -> list[str]:
    """A caption with one of its facts wrong, once for every fact that one word or pair of words says.

    The same caption gives the same ones.
    """
    rng = Random(seed_of("wrong", caption))
    plurals = [plural for noun, plural in lexicon.plurals.items() if plural != noun]
    pools = (lexicon.nouns, plurals, lexicon.colors, lexicon.sizes, NUMBERS[1:], RELATIONS, CELLS)
    wrong = []
    for pool in (*pools, tuple(lexicon.grounds.values())):
        for word in pool:
            before, match, after = f" {caption} ".partition(f" {word} ")
            if match:
                other = rng.choice([one for one in pool if one != word])
                wrong.append(f"{before} {other} {after}".strip())
    return wrong


def _joint(words: list[str], position: int) -> tuple[str | None, int]:
    pair = " ".join(words[position : position + 2])
    if pair in (*RELATIONS, ", and"):
        return pair, position + 2
    if words[position] in (*RELATIONS, "and", ","):
        return words[position], position + 1
    return None, position


def _mention(words: list[str], position: int, lexicon: Lexicon) -> tuple[Mention | None, int]:
    numbers = {"a": 1, "an": 1, "the": 1} | {word: i + 1 for i, word in enumerate(NUMBERS)}
    singulars = {plural: noun for noun, plural in lexicon.plurals.items()} | {noun: noun for noun in lexicon.nouns}

    def take(known: object) -> str | None:
        nonlocal position
        if position < len(words) and words[position] in known:  # type: ignore[operator]
            position += 1
            return words[position - 1]
        return None

    count = numbers[take(numbers) or "a"]
    size, color, noun = take(lexicon.sizes), take(lexicon.colors), take(singulars)
    if noun is None:
        return None, position
    cell = " ".join(words[position : position + 2])
    if cell in CELLS:
        position += 2
    where = CELLS.index(cell) if cell in CELLS else None
    return Mention(count, singulars[noun], color, size, where), position
