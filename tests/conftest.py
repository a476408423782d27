"""The order of the tests, hypothesis' settings, and no collector that goes through all of torch again and again."""

import gc

from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all. More: `--hypothesis-profile default`.
settings.register_profile("hermesflow", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("hermesflow")


LONG = ("budget_memory", "bench", "distributed", "hub", "interruption", "paper_scale", "stage_grade_kept", "tracking")
"""Test files of half a minute and more, besides those of whole workflows."""


def pytest_collection_modifyitems(items):
    """Longest files first, so that two workers end together (`make test` keeps this order)."""
    long = {f"test_{name}" for name in LONG}
    items.sort(key=lambda item: ("workflow" not in item.path.parts, item.path.stem not in long))


def pytest_collection_finish():
    """What collection has imported is never garbage."""
    gc.collect()
    gc.freeze()
