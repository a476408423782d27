"""What made the figures of real benchmarks: `facts.json` of their folders, as one line per benchmark.

Figures of one table must have been made alike, so protocol, scorers and number of items may not differ between
checkpoints and seeds. Whatever else a folder notes (counts, prices, the model that answered) may; the line says how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json

FACTS = "facts.json"
_KNOWN = ("protocol", "scorers", "items")


@dataclass(frozen=True)
class Facts:
    """What made the figures of one benchmark of one checkpoint and seed."""

    protocol: str
    scorers: Mapping[str, str]
    """What a scorer does to the scorer with its revision or version."""
    items: int
    """Prompts or questions."""
    more: Mapping[str, Any]
    """Everything else that was noted, by slash-joined keys."""


def read_facts(path: Path) -> Facts:
    """Read `facts.json` of a benchmark's folder.

    Raises:
        ArtifactError: missing, truncated, or without protocol, scorers and number of items.
    """
    noted = read_json(path)
    if not isinstance(noted, dict):
        raise ArtifactError(f"{path}: is not an object. {_AGAIN}")
    protocol, scorers, items = (noted.get(key) for key in _KNOWN)
    if not isinstance(protocol, str) or not isinstance(scorers, dict) or not isinstance(items, int):
        raise ArtifactError(
            f"{path}: wants `protocol` (text), `scorers` (an object) and `items` (a whole number), has "
            f"{protocol!r}, {scorers!r} and {items!r}. {_AGAIN}"
        )
    more = {key: value for key, value in noted.items() if key not in _KNOWN}
    return Facts(protocol, {str(k): str(v) for k, v in scorers.items()}, items, dict(_flat(more)))


def benchmark_lines(folders: Mapping[str, Mapping[int, Sequence[Path]]]) -> dict[str, str]:
    """One line per benchmark: protocol, scorers with versions, items, run seeds, and what else was noted.

    Args:
        folders: checkpoint -> seed -> folders of its benchmarks, which are named after them.

    Raises:
        ArtifactError: two checkpoints or seeds were measured by another protocol, with other scorers or other items.
    """
    by_name: dict[str, dict[Path, Facts]] = {}
    for by_seed in folders.values():
        for benchmarks in by_seed.values():
            for folder in benchmarks:
                by_name.setdefault(folder.name, {})[folder] = read_facts(folder / FACTS)
    seeds = sorted({seed for by_seed in folders.values() for seed in by_seed})
    return {name: _line(name, by_folder, seeds) for name, by_folder in by_name.items()}


def _line(name: str, by_folder: Mapping[Path, Facts], seeds: Sequence[int]) -> str:
    _check_alike(by_folder)
    facts = next(iter(by_folder.values()))
    parts = [facts.protocol]
    if facts.scorers:
        parts.append("by " + ", ".join(f"{what} {scorer}" for what, scorer in facts.scorers.items()))
    parts += [f"{facts.items:,} items", f"run seeds {', '.join(map(str, seeds))}"]
    return f"{name}: {'; '.join([*parts, *_notes([one.more for one in by_folder.values()])])}."


def _notes(noted: Sequence[Mapping[str, Any]]) -> list[str]:
    """What else the folders noted: plain facts one by one, those of one stem together."""
    plain: list[str] = []
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for one in noted for key in one):
        stem, _, leaf = key.rpartition("/")
        (groups.setdefault(stem, []) if stem else plain).append(_noted(leaf, [one.get(key) for one in noted]))
    return plain + [f"{stem}: {', '.join(texts)}" for stem, texts in groups.items()]


def _check_alike(by_folder: Mapping[Path, Facts]) -> None:
    (first, expected), *entries = by_folder.items()
    for folder, facts in entries:
        for key in _KNOWN:
            value, first_value = getattr(facts, key), getattr(expected, key)
            if value != first_value:
                raise ArtifactError(
                    f"{folder / FACTS}: `{key}` is {value!r}, but {first_value!r} in {first / FACTS}. One table cannot "
                    "hold figures that were made differently. Delete the older folder and run snakemake again."
                )


def _noted(key: str, values: Sequence[Any]) -> str:
    """One noted fact of all folders: as it is where all agree, from least to most, or how often each occurs."""
    texts = [_text(value) for value in values]
    if len(set(texts)) == 1:
        return f"{key} {texts[0]}"
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return f"{key} {_text(min(values))} to {_text(max(values))}"
    counts = Counter(texts).most_common()
    return f"{key} differs: " + " and ".join(f"{text} ({count} of {len(texts)} runs)" for text, count in counts)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)


def _flat(tree: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{stem}{key}/")
        else:
            yield f"{stem}{key}", value


_AGAIN = "Delete its folder and run snakemake again."
