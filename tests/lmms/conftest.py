"""These tests run in lmms-eval's environment (`make test-lmms`); elsewhere they are not collected."""

import importlib.util

if importlib.util.find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]
