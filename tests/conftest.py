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
LONG = (
    *("training/distributed", "training/interruption", "training/killed_saves", "training/launching"),
    *("workflow/container", "workflow/order", "workflow/own_pictures", "workflow/paper_scale"),
    *("workflow/second_backbone", "workflow/sharing"),
)
"""What `make test-long` tests: trainings of several processes, every boundary of a save, further whole DAGs."""
FOLDERS = (*COSTS, "lmms", "workflow")
FILES = (
    "asking",
    "benchmark_seam",
    "benchmarks_exporting",
    "benchmarks_to_tables",
    "conversion",
    "defects",
    "digests",
    "hub",
    "imports",
    "journeydb",
    "judging_chat",
    "judging_local",
    "judging_processes",
    "picture_styles",
    "pictures_stages",
    "sources_properties",
    "stage_evaluate",
    "stage_grade",
    "stage_grade_kept",
    "stage_report",
    "stage_score",
    "tracking",
    "stopping",
    "train",
)
"""Test files of five seconds and more: with the folders, what `make test-fast` leaves out."""


def pytest_collection_modifyitems(items):
    """Slow files first, so that two workers end together (`make test` keeps this order)."""
    for item in items:
        file, folder = item.path.stem.removeprefix("test_"), item.path.parent.name
        if folder in COSTS:
            item.add_marker(pytest.mark.costs)
        if f"{folder}/{file}" in LONG:
            item.add_marker(pytest.mark.long)
        if folder in FOLDERS or file in FILES or item.get_closest_marker("long"):
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
