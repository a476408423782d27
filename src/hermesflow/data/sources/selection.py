"""`selection.json`: which records a set of pairs is, so that another site gets the same and is told what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.core.errors import DataError
from hermesflow.core.files import read_json, write_json
from hermesflow.data.sources.drawing import Candidate, DrawResult
from hermesflow.data.sources.store import Store

_RECORDS = 5  # records named in a message


@dataclass(frozen=True)
class Selection:
    """Ids in order, with the sha256 of each image file as its source holds it."""

    path: Path
    splits: dict[str, int]
    sha256: dict[str, str]

    @property
    def ids(self) -> list[str]:
        """All ids, in order."""
        return list(self.sha256)


def write_selection(
    path: Path,
    splits: Mapping[str, Sequence[Candidate]],
    result: DrawResult,
    store: Store,
    *,
    origin: Mapping[str, Any],
    seed: int,
) -> None:
    """Write what was drawn, what was done to it, and what became of all other records."""
    rows = {
        split: [{"id": candidate.id, "sha256": store.sha256(candidate.image)} for candidate in chosen]
        for split, chosen in splits.items()
    }
    used, aside = len(result.chosen), len(result.rejected)
    changes = Counter(change for one in result.chosen for change in (*one.changes, *store.image(one.image).changes))
    write_json(
        path,
        {
            "origin": dict(origin),
            "seed": seed,
            "records": {
                "read": result.read,
                "drawn": used,
                "set aside": aside,
                "not needed": result.read - used - aside,
            },
            "changes": dict(changes),
            "splits": rows,
        },
    )


def read_selection(path: Path, counts: Mapping[str, int]) -> Selection:
    """Read the selection of another site.

    Args:
        path: `selection.json`.
        counts: pairs per split that the config asks for, in the order in which splits are drawn.

    Raises:
        DataError: not a selection, or its splits have other sizes.
    """
    if not path.is_file():
        raise DataError(
            f"data.selection: {path} is not there. Copy the selection.json of the other site, or leave it out."
        )
    try:
        rows = {split: read_json(path)["splits"][split] for split in counts}
        sha256 = {row["id"]: row["sha256"] for split in counts for row in rows[split]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not a selection.json ({type(error).__name__}: {error}). Copy it again from the other site."
        ) from error
    sizes = {split: len(members) for split, members in rows.items()}
    if sizes != dict(counts):
        raise DataError(
            f"{path}: has {_listed(sizes)} pairs, but the config asks for {_listed(counts)}. Set data.pairs, "
            "data.gap_pairs, data.base_pairs and the sizes in `evaluation` to those of the other site."
        )
    return Selection(path, sizes, sha256)


def check_selection(selection: Selection, result: DrawResult, store: Store) -> None:
    """Compare what was drawn with a selection.

    Raises:
        DataError: a record is missing, cannot be used, or has another image; the first ones are named.
    """
    reasons = {rejected.id: rejected.reason for rejected in result.rejected}
    images = {candidate.id: candidate.image for candidate in result.chosen}
    differing = []
    for id_, expected in selection.sha256.items():
        if id_ not in images:
            differing.append(f"{id_}: {reasons.get(id_, 'not in the source')}")
        elif (sha256 := store.sha256(images[id_])) != expected:
            differing.append(f"{id_}: the image has sha256 {sha256} instead of {expected}")
    if differing:
        more = f"; and {len(differing) - _RECORDS:,} more" if len(differing) > _RECORDS else ""
        raise DataError(
            f"{selection.path}: {len(differing):,} of {len(selection.sha256):,} records differ here: "
            f"{'; '.join(differing[:_RECORDS])}{more}. Fetch or copy these again, or use the data and revision of the "
            "other site (`origin` in that file)."
        )


def check_enough(result: DrawResult, counts: Mapping[str, int], where: str) -> None:
    """Refuse to go on with too few pairs.

    Raises:
        DataError: the source has fewer good records than the config asks for.
    """
    total = sum(counts.values())
    if len(result.chosen) == total:
        return
    reasons = Counter(rejected.reason.partition(":")[0] for rejected in result.rejected)
    aside = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common()) or "none"
    first = next((f" (first: {r.file}, record {r.record}: {r.reason})" for r in result.rejected), "")
    raise DataError(
        f"{where}: only {len(result.chosen):,} of the {total:,} pairs asked for ({_listed(counts)}) could be drawn; "
        f"set aside: {aside}{first}. Mend the records, add some, or ask for fewer in the config; where questions are "
        "lacking, let data.questions name models that make them."
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {n:,}" for split, n in counts.items())
