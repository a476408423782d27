"""The order of the tests."""


def pytest_collection_modifyitems(items):
    """Longest files first, so that two workers end together (`make test` keeps this order)."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)
