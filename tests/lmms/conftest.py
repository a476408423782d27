"""These tests run in lmms-eval's environment (`make test-lmms`); elsewhere they are not collected."""

import importlib.util

import pytest

if importlib.util.find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def all_columns(tmp_path_factory):
    """All columns of Table 1 by the real command line, whose start takes long: once for all tests."""
    from .all_columns import evaluated

    return evaluated(tmp_path_factory.mktemp("lmms"))
