"""Which records of a source become pairs: an order by seed, bad records set aside and replaced by the next in it.

The order depends on nothing but the seed and the ids, so another site with the same source draws the same pairs.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hermesflow.core.errors import DataError
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import seed_of
from hermesflow.data.images import fit_image
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
class Drawn:
    """The pairs, and what was set aside on the way."""

    chosen: list[Candidate]
    rejected: list[Rejected]


Gate = Callable[[Candidate], str | None]
"""Why a candidate cannot be used: empty if it can, None if that is not known yet."""


def first_by_seed(
    records: Iterable[Candidate | Rejected], count: int, *, seed: int
) -> tuple[list[Candidate], list[Rejected]]:
    """The first candidates in the order of a seed, in one pass that remembers no more than it returns.

    Records with the same id stand together, in file order.

    Args:
        records: all records of a source.
        count: at most so many.
        seed: what the order follows from.

    Returns:
        The candidates in order, and the records that are none.
    """
    broken: list[Rejected] = []

    def keyed() -> Iterator[tuple[int, int, Candidate]]:
        for place, record in enumerate(records):
            if isinstance(record, Rejected):
                broken.append(record)
            else:
                yield seed_of("draw", seed, record.id), place, record

    first = heapq.nsmallest(count, keyed(), key=lambda item: item[:2])
    return [candidate for _, _, candidate in first], broken


def by_selection(records: Iterable[Candidate | Rejected], ids: Sequence[str]) -> tuple[list[Candidate], list[Rejected]]:
    """The candidates of a selection, in its order; otherwise as `first_by_seed`."""
    place = {id_: i for i, id_ in enumerate(ids)}
    broken, found = [], []
    for number, record in enumerate(records):
        if isinstance(record, Rejected):
            broken.append(record)
        elif record.id in place:
            found.append((place[record.id], number, record))
    return [candidate for _, _, candidate in sorted(found, key=lambda item: item[:2])], broken


def walk(order: Iterable[Candidate], total: int, gates: Sequence[Gate]) -> tuple[Drawn, list[Candidate]]:
    """Go down the order and take what is good, or may be, until there are `total`.

    Ids and captions are taken once.

    Returns:
        What is drawn if all that is unknown turns out good, and the chosen ones of which something is unknown.
    """
    chosen: list[Candidate] = []
    unknown: list[Candidate] = []
    rejected: list[Rejected] = []
    ids: set[str] = set()
    captions: set[str] = set()
    for candidate in order:
        if len(chosen) == total:
            break
        caption = " ".join(candidate.caption.lower().split())
        faults = [_text_fault(candidate.id, caption, ids, captions), *(gate(candidate) for gate in gates)]
        if reason := next((fault for fault in faults if fault), None):
            rejected.append(Rejected(candidate.id, candidate.file, candidate.record, reason))
            continue
        ids.add(candidate.id)
        captions.add(caption)
        chosen.append(candidate)
        if None in faults:
            unknown.append(candidate)
    return Drawn(chosen, rejected), unknown


def _text_fault(id_: str, caption: str, ids: set[str], captions: set[str]) -> str:
    if not id_.strip():
        return "empty id"
    if id_ in ids:
        return "duplicate id"
    if not caption:
        return "empty caption"
    return "duplicate caption" if caption in captions else ""


def take_images(
    source: Source, store: Store, unknown: Sequence[Candidate], spare: Sequence[Candidate], *, image_size: int
) -> None:
    """Take the images of candidates from their shards, one pass per shard, and keep them.

    Args:
        source: where they are.
        store: where they are kept; a shard that is done is not read again.
        unknown: whose images are needed; their shards are opened.
        spare: who may be needed later; taken along where their shard is opened anyway.
        image_size: pixels per side.
    """
    needed = [c for c in unknown if store.fault(c.id) is None]
    shards = sorted({c.shard for c in needed})
    progress = Progress(len(shards), "images of drawn records", "shard")
    for shard in shards:
        wanted: dict[str, Candidate] = {}
        for candidate in [*needed, *spare]:
            if candidate.shard == shard and store.fault(candidate.id) is None:
                wanted.setdefault(candidate.member, candidate)
        store.add_images(_taken(source.images(shard, wanted.keys()), wanted, shard, image_size))
        progress.advance()


def _taken(
    images: Iterable[tuple[str, bytes]], wanted: dict[str, Candidate], shard: str, image_size: int
) -> Iterator[Taken]:
    missing = dict(wanted)
    for member, encoded in images:
        if missing.pop(member, None) is None:
            continue  # a second member of the same name
        digest = hashlib.sha256(encoded).hexdigest()
        try:
            yield Taken(wanted[member].id, digest, "", fit_image(encoded, image_size))
        except DataError as error:
            yield Taken(wanted[member].id, digest, f"corrupt image: {error}", None)
    for member, candidate in missing.items():
        yield Taken(candidate.id, "", f"missing image: {member} is not in {shard}", None)


def draw(
    source: Source,
    store: Store,
    questions: Questions,
    total: int,
    *,
    order_of: Callable[[int], tuple[list[Candidate], list[Rejected]]],
    image_size: int,
) -> Drawn:
    """Draw pairs; fewer than `total` only where the source has no more good records.

    Args:
        source: records and images.
        store: images taken so far.
        questions: tells who has questions, and has them made.
        total: number of pairs.
        order_of: the first so many candidates in their order, and the records that are none.
        image_size: pixels per side.
    """
    extra = max(16, total // 10)
    length = -(-(total + extra) // questions.block) * questions.block
    order, broken = order_of(length)
    while True:
        drawn, unknown = walk(order, total, [lambda c: store.fault(c.id), questions.fault])
        if len(drawn.chosen) < total and len(order) == length:
            length *= 2
            order, broken = order_of(length)
        elif not unknown:
            return Drawn(drawn.chosen, [*broken, *drawn.rejected])
        elif any(store.fault(candidate.id) is None for candidate in unknown):
            take_images(source, store, unknown, order[: total + extra], image_size=image_size)
        else:
            questions.ask(order, unknown)
