"""The order of the tests, and no collector that goes through all of torch again and again."""

import gc


def pytest_collection_modifyitems(items):
    """Longest files first, so that two workers end together (`make test` keeps this order)."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def pytest_collection_finish():
    """What collection has imported is never garbage."""
    gc.collect()
    gc.freeze()
