"""Which records of a source become pairs: an order by seed, bad records set aside and replaced by the next in it.

The order depends on nothing but the seed, the ids and which captions are equal, so another site with the same source
draws the same pairs.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from hermesflow.core.errors import DataError
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import seed_of
from hermesflow.data.images import Fitted
from hermesflow.data.questions.rows import is_unicode, plain
from hermesflow.data.sources.store import Store, Taken


@dataclass(frozen=True)
class Candidate:
    """A record that may become a pair."""

    id: str
    caption: str
    file: str
    """Where the record stands, for people to find it."""
    record: int
    """Its line or row in `file`, from 1."""
    shard: str
    """The part of the source that holds its image."""
    member: str
    """Its image's name in that part."""
    questions: Any = None
    """Its own questions as the source has them."""
    prompt: str = ""
    """What its image was made from, where the source says so: no prompt is in two splits."""
    changes: tuple[str, ...] = ()
    """What was done to its text."""

    @property
    def image(self) -> str:
        """Name of its image; with its texts, for rows of a table that was mended may have other numbers."""
        return "\n".join((self.id, self.shard, self.member, self.caption))


@dataclass(frozen=True)
class Rejected:
    """A record set aside."""

    id: str
    file: str
    record: int
    reason: str


class Source(Protocol):
    """Where records and images come from."""

    @property
    def origin(self) -> dict[str, Any]:
        """What the records and images are: goes into `selection.json`."""

    def records(self) -> Iterator[Candidate | Rejected]:
        """All records, in the order of the files."""

    def images(self, shard: str, members: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yields the name and the encoded bytes of the requested images of one shard, in a single pass.

        Args:
            shard: a part of the source, as in `Candidate.shard`.
            members: names of images in that part. A missing name is skipped.
        """

    def own_questions(self, candidate: Candidate) -> tuple[list[dict[str, Any]], Counter[str]]:
        """A candidate's questions as rows of `pairs.SCHEMA`, and why others were dropped."""


class Questions(Protocol):
    """Questions about candidates."""

    @property
    def block(self) -> int:
        """Candidates that stand together when questions are made; the order is asked for in multiples of it."""

    def fault(self, candidate: Candidate) -> str | None:
        """Why its questions will not do: empty if they will, None if they are still to be made."""

    def ask(self, order: Sequence[Candidate], unknown: Sequence[Candidate]) -> None:
        """Have the questions of some candidates made; `order` says who stands beside whom."""


@dataclass(frozen=True)
class DrawResult:
    """The pairs, and what was set aside on the way."""

    chosen: list[Candidate]
    rejected: list[Rejected]
    read: int
    """Records of the source; those that are neither chosen nor rejected were not needed."""


class Order(NamedTuple):
    """Records of a source in the order in which they are taken."""

    candidates: list[Candidate]
    broken: list[Rejected]
    """Records that are no candidates."""
    read: int
    """All records of the source."""


Gate = Callable[[Candidate], str | None]
"""Why a candidate cannot be used: empty if it can, None if that is not known yet."""
Fit = Callable[[bytes], Fitted]
"""From an image file to the image as the model needs it; raises DataError where it cannot be decoded."""


def readable(records: Iterable[Candidate | Rejected]) -> Iterator[Candidate | Rejected]:
    """Records; those with text that no file can hold are set aside."""
    for record in records:
        if isinstance(record, Candidate) and ("\0" in record.image or not is_unicode(record.image)):
            record = Rejected(record.id, record.file, record.record, "text that is not UTF-8")
        yield record


def first_of_captions(records: Iterable[Candidate | Rejected], *, seed: int) -> dict[int, int]:
    """Where in the order of a seed the first record of each caption stands, by digest of the caption."""
    first: dict[int, int] = {}
    for record in records:
        if isinstance(record, Candidate) and record.caption:
            digest, place = seed_of(plain(record.caption)), seed_of("draw", seed, record.id)
            first[digest] = min(place, first.get(digest, place))
    return first


def first_by_seed(records: Iterable[Candidate | Rejected], count: int, *, seed: int, first: Mapping[int, int]) -> Order:
    """The first candidates in the order of a seed, in one pass that remembers no more than it returns.

    Records with the same caption stand together, and of those that have the same id too, the first of the file first.

    Args:
        records: all records of a source.
        count: at most so many.
        seed: what the order follows from.
        first: of `first_of_captions`.
    """
    broken: list[Rejected] = []
    read = 0

    def keyed() -> Iterator[tuple[int, int, int, Candidate]]:
        nonlocal read
        for record in records:
            read += 1
            if isinstance(record, Rejected):
                broken.append(record)
            else:
                place = seed_of("draw", seed, record.id)
                yield first.get(seed_of(plain(record.caption)), place), place, read, record

    chosen = heapq.nsmallest(count, keyed(), key=lambda item: item[:3])
    return Order([candidate for *_, candidate in chosen], broken, read)


def by_selection(records: Iterable[Candidate | Rejected], ids: Sequence[str]) -> Order:
    """The candidates of a selection, in its order."""
    place = {id_: i for i, id_ in enumerate(ids)}
    broken, candidates, read = [], [], 0
    for record in records:
        read += 1
        if isinstance(record, Rejected):
            broken.append(record)
        elif record.id in place:
            candidates.append((place[record.id], read, record))
    return Order([candidate for *_, candidate in sorted(candidates, key=lambda item: item[:2])], broken, read)


def walk(
    order: Iterable[Candidate], sizes: Mapping[str, int], gates: Sequence[Gate], digest_of: Callable[[Candidate], str]
) -> tuple[list[Candidate], list[Rejected], list[Candidate]]:
    """Go down the order and take what is good, or may be, until every split is full, one after the other.

    Ids are taken once. Captions, prompts and images may come again, but not in two splits.

    Args:
        order: candidates.
        sizes: pairs per split.
        gates: what else must be known of a candidate.
        digest_of: of a candidate's image; empty where it is not known yet.

    Returns:
        What is drawn if all that is unknown turns out good, what is set aside, and the chosen ones of which something
        is unknown.
    """
    splits = [split for split, size in sizes.items() for _ in range(size)]
    chosen: list[Candidate] = []
    unknown: list[Candidate] = []
    rejected: list[Rejected] = []
    ids: set[str] = set()
    split_of: dict[tuple[str, str], str] = {}
    for candidate in order:
        if len(chosen) == len(splits):
            break
        split = splits[len(chosen)]
        prompt = plain(candidate.prompt.partition("--")[0])  # without Midjourney's parameters
        marks = [("caption", plain(candidate.caption)), ("prompt", prompt), ("image", digest_of(candidate))]
        known = [(kind, split_of[kind, what]) for kind, what in marks if what and (kind, what) in split_of]
        elsewhere = [f"same {kind} as split {other}, which is full" for kind, other in known if other != split]
        faults = [_text_fault(candidate, ids), *elsewhere, *(gate(candidate) for gate in gates)]
        if reason := next((fault for fault in faults if fault), None):
            rejected.append(Rejected(candidate.id, candidate.file, candidate.record, reason))
            continue
        ids.add(candidate.id)
        split_of |= dict.fromkeys(marks, split)
        chosen.append(candidate)
        if None in faults:
            unknown.append(candidate)
    return chosen, rejected, unknown


def _text_fault(candidate: Candidate, ids: set[str]) -> str:
    if not candidate.id.strip():
        return "empty id"
    if candidate.id in ids:
        return "duplicate id"
    return "" if candidate.caption.strip() else "empty caption"


def take_images(
    source: Source, store: Store, unknown: Sequence[Candidate], spare: Sequence[Candidate], *, fit: Fit
) -> None:
    """Take the images of candidates from their shards, one pass per shard, and keep them.

    Args:
        source: where they are.
        store: where they are kept; a shard that is done is not read again.
        unknown: whose images are needed; their shards are opened.
        spare: who may be needed later; taken along where their shard is opened anyway.
        fit: makes an image what the model needs.
    """
    needed = [c for c in unknown if store.fault(c.image) is None]
    shards = sorted({c.shard for c in needed})
    progress = Progress(len(shards), "images of drawn records", "shard")
    for shard in shards:
        wanted: dict[str, Candidate] = {}
        for candidate in [*needed, *spare]:
            if candidate.shard == shard and store.fault(candidate.image) is None:
                wanted.setdefault(candidate.member, candidate)
        store.add_images(_taken(source.images(shard, wanted.keys()), wanted, fit))
        progress.advance()


def _taken(images: Iterable[tuple[str, bytes]], wanted: dict[str, Candidate], fit: Fit) -> Iterator[Taken]:
    missing = dict(wanted)
    for member, encoded in images:
        if missing.pop(member, None) is None:
            continue  # a second member of the same name
        name, digest = wanted[member].image, hashlib.sha256(encoded).hexdigest()
        try:
            png, changes = fit(encoded)
            yield Taken(name, digest, "", changes, png)
        except DataError as error:
            yield Taken(name, digest, f"corrupt image: {error}", (), None)
    for member, candidate in missing.items():
        where = candidate.shard or "the source"
        yield Taken(candidate.image, "", f"missing image: {member} is not in {where}, or cannot be read", (), None)


def draw(
    source: Source,
    store: Store,
    questions: Questions,
    sizes: Mapping[str, int],
    *,
    order_of: Callable[[int], Order],
    fit: Fit,
) -> DrawResult:
    """Draw pairs; fewer than asked for only where the source has no more good records.

    Args:
        source: records and images.
        store: images taken so far.
        questions: tells who has questions, and has them made.
        sizes: pairs per split, in the order in which splits are drawn.
        order_of: the first so many candidates in their order.
        fit: makes an image what the model needs.
    """
    total = sum(sizes.values())
    extra = max(16, total // 10)
    length = -(-(total + extra) // questions.block) * questions.block
    order = order_of(length)
    gates: list[Gate] = [lambda c: store.fault(c.image), questions.fault]
    while True:
        chosen, rejected, unknown = walk(order.candidates, sizes, gates, lambda c: store.sha256(c.image))
        if len(chosen) < total and len(order.candidates) == length:
            length *= 2
            order = order_of(length)
        elif not unknown:
            return DrawResult(chosen, [*order.broken, *rejected], order.read)
        elif any(store.fault(candidate.image) is None for candidate in unknown):
            take_images(source, store, unknown, order.candidates[: total + extra], fit=fit)
        else:
            questions.ask(order.candidates, unknown)
