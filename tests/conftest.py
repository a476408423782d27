"""The order of the tests, hypothesis' settings, and no collector that goes through all of torch again and again."""

import gc

from hypothesis import settings

# The same examples on every run: a failure on one machine is a failure on all. More: `--hypothesis-profile default`.
settings.register_profile("hermesflow", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("hermesflow")


def pytest_collection_modifyitems(items):
    """Longest files first, so that two workers end together (`make test` keeps this order)."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def pytest_collection_finish():
    """What collection has imported is never garbage."""
    gc.collect()
    gc.freeze()
