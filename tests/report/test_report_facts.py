"""What made the figures of real benchmarks, as lines under the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import write_json
from hermesflow.report.facts import benchmark_lines

GAP = {"protocol": "3 questions", "scorers": {"judge": "gpt-4o-2024-08-06"}, "items": 1000}


def folders(tmp_path: Path, *facts: dict[str, Any]) -> dict[str, dict[int, list[Path]]]:
    """One checkpoint after another, each of one seed with the benchmark `gap`."""
    found: dict[str, dict[int, list[Path]]] = {}
    for number, one in enumerate(facts):
        folder = tmp_path / f"c{number}" / "gap"
        write_json(folder / "facts.json", one)
        found[f"c{number}"] = {0: [folder]}
    return found


def test_a_line_names_protocol_scorers_items_and_seeds(tmp_path):
    by_seed = {0: folders(tmp_path / "0", GAP)["c0"][0], 3: folders(tmp_path / "3", GAP)["c0"][0]}
    line = "gap: 3 questions; by judge gpt-4o-2024-08-06; 1,000 items; run seeds 0, 3."
    assert benchmark_lines({"base": by_seed}) == {"gap": line}


def test_what_else_was_noted_is_told_once_where_all_agree(tmp_path):
    noted = GAP | {"questions": 3000, "verdicts": {"real": {"accuracy": 0.91234, "refused": 2}}, "models": ["a", "b"]}
    line = benchmark_lines(folders(tmp_path, noted, noted))["gap"]
    assert line.endswith("run seeds 0; models a, b; questions 3,000; verdicts/real: accuracy 0.9123, refused 2.")


def test_numbers_that_differ_are_told_from_least_to_most(tmp_path):
    found = folders(tmp_path, *(GAP | {"cost": {"dollars": d}} for d in (1.5, 0.25, 1.0)))
    assert "; cost: dollars 0.25 to 1.5." in benchmark_lines(found)["gap"]


def test_words_that_differ_are_counted(tmp_path):
    found = folders(tmp_path, *(GAP | {"models": [m]} for m in ("new", "old", "old")))
    assert "; models differs: old (2 of 3 runs) and new (1 of 3 runs)." in benchmark_lines(found)["gap"]


@pytest.mark.parametrize(
    "other", [{"protocol": "4 questions"}, {"scorers": {"judge": "gpt-5"}}, {"items": 999}], ids=lambda d: next(iter(d))
)
def test_figures_made_otherwise_are_refused(tmp_path, other):
    key = next(iter(other))
    with pytest.raises(ArtifactError, match=rf"c1/gap/facts\.json: `{key}` is .* but .*c0/gap/facts\.json"):
        benchmark_lines(folders(tmp_path, GAP, GAP | other))


@pytest.mark.parametrize("key", GAP)
def test_facts_without_what_every_table_names_are_refused(tmp_path, key):
    with pytest.raises(ArtifactError, match=r"c0/gap/facts\.json: wants `protocol`"):
        benchmark_lines(folders(tmp_path, {k: v for k, v in GAP.items() if k != key}))


def test_no_benchmarks_give_no_lines():
    assert benchmark_lines({"base": {0: ()}}) == {}
