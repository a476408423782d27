"""Which tests are slow, their order, hypothesis' settings, seeds, and no collector that goes through all of torch."""

import gc
import random
import sys

import pytest
from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all. More: `--hypothesis-profile default`.
settings.register_profile("hermesflow", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("hermesflow")

COSTS = ("bench", "budget")
"""Folders of what `make test-costs` tests: what things are said to cost, against what they cost."""
FOLDERS = (*COSTS, "lmms", "workflow")
FILES = (
    "asking",
    "benchmark_seam",
    "benchmarks_exporting",
    "benchmarks_to_tables",
    "conversion",
    "defects",
    "digests",
    "distributed",
    "hub",
    "imports",
    "interruption",
    "journeydb",
    "judging_chat",
    "judging_local",
    "judging_processes",
    "killed_saves",
    "launching",
    "pictures_stages",
    "sources_properties",
    "stage_evaluate",
    "stage_grade",
    "stage_grade_kept",
    "stage_report",
    "stage_score",
    "tracking",
    "train",
)
"""Test files of five seconds and more: with the folders, what `make test-fast` leaves out."""


def pytest_collection_modifyitems(items):
    """Slow files first, so that two workers end together (`make test` keeps this order)."""
    for item in items:
        if item.path.parent.name in COSTS:
            item.add_marker(pytest.mark.costs)
        if item.path.parent.name in FOLDERS or item.path.stem.removeprefix("test_") in FILES:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.get_closest_marker("slow") is None))


def pytest_collection_finish():
    """What collection has imported is never garbage."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Random weights are the same on every run: torch seeds its generator at random when it is imported."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
