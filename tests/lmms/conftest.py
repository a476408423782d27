"""These tests run in lmms-eval's environment (`make test-lmms`); elsewhere they are not collected.

A start of the real command line takes long, so several tests share what one leaves.
"""

import importlib.util

import pytest

if importlib.util.find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """A tiny checkpoint and local tasks of all columns; nothing is evaluated yet."""
    from .all_columns import written

    return written(tmp_path_factory.mktemp("lmms"))


@pytest.fixture(scope="session")
def all_columns(small_world):
    """lmms-eval's files of all columns of Table 1 but Flickr30k, by the real command line."""
    return small_world.evaluated()


@pytest.fixture(scope="session")
def staged(small_world, tmp_path_factory):
    """Stage `understand` on Flickr30k, and where it works."""
    from .staged import Staged

    return Staged.of(small_world, tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="session")
def flickr_folder(staged, small_world):
    """The benchmark's folder that stage `understand` makes of Flickr30k, Karpathy's file being named."""
    return staged.with_(karpathy=str(small_world.root / "tasks" / "splits.json")).run("karpathy")


@pytest.fixture(scope="session")
def both_runs(all_columns, flickr_folder):
    """What lmms-eval left of all columns, Flickr30k's too."""
    from hermesflow.evaluation.lmms.run import Run, read_run

    rest, flickr = read_run(all_columns), read_run(flickr_folder / "lmms")
    return Run(rest.folder, rest.figures | flickr.figures, rest.samples | flickr.samples, rest.images | flickr.images)
