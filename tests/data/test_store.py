"""What a data step has done so far."""

from __future__ import annotations

import pytest

from hermesflow.core.errors import DataError
from hermesflow.data.sources.store import Taken, open_store

GOOD, BAD = Taken("a", "1" * 64, "", ("turned upright",), b"png"), Taken("b", "", "missing image", (), None)


def test_images_and_texts_are_there_in_the_next_process(tmp_path):
    with open_store(tmp_path / "work" / "store", made_from="x", retry=False) as store:
        assert store.fault("a") is None and store.text("key") is None
        store.add_images([GOOD, BAD])
        store.add_text("key", [{"b": 1}])
    with open_store(tmp_path / "work" / "store", made_from="x", retry=False) as store:
        assert (store.fault("a"), store.fault("b")) == ("", "missing image")
        assert store.image("a") == GOOD and store.text("key") == [{"b": 1}]
        with pytest.raises(KeyError):
            store.image("c")


def test_images_made_from_something_else_are_dropped_and_faults_on_request(tmp_path):
    for made_from, retry, expected in (("x", False, (None, None)), ("x", True, ("", None)), ("y", False, (None, None))):
        with open_store(tmp_path / "store", made_from=made_from, retry=retry) as store:
            assert (store.fault("a"), store.fault("b")) == expected
            store.add_images([GOOD, BAD])
            store.add_text("key", 1)
    with open_store(tmp_path / "store", made_from="z", retry=False) as store:
        assert store.text("key") == 1


def test_a_shard_that_breaks_off_leaves_what_was_committed(tmp_path):
    def images():
        yield from (Taken(f"{n:04d}", "", "", (), b"png") for n in range(250))
        raise DataError("truncated")

    with pytest.raises(DataError, match="truncated"), open_store(tmp_path / "s", made_from="x", retry=False) as store:
        store.add_images(images())
    with open_store(tmp_path / "s", made_from="x", retry=False) as store:
        assert store.fault("0199") == "" and store.fault("0249") is None


def test_a_file_that_is_no_store_is_an_error(tmp_path):
    (tmp_path / "store").write_bytes(b"not a database" * 100)
    with (
        pytest.raises(DataError, match=r"store: .*Delete it and run again"),
        open_store(tmp_path / "store", made_from="x", retry=False),
    ):
        pass
