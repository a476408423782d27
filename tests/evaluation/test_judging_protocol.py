import io

import numpy as np
import pytest
from PIL import Image

from hermesflow.core.errors import DataError
from hermesflow.evaluation.judges.protocol import Item, Verdict, check_items, outcome_counts, png_bytes

ITEM = Item("a", "red", "what color ?", ("red", "blue"), "red")


def test_every_outcome_is_counted_by_hand():
    verdicts = [Verdict("a", "refused", None, ""), Verdict("b", "chosen", "red", ""), Verdict("c", "refused", None, "")]
    assert outcome_counts(verdicts) == {
        **{"chosen": 1, "cannot tell": 0, "refused": 2, "unreadable": 0, "cut short": 0},
    }


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Item("pair-7", b"\xff\xd8\xff", "why ?", ("a", "b"), "a"), r"pair-7.*why \?.*not PNG"),
        (Item("pair-7", "", "why ?", ("a", "A "), "a"), r"pair-7.*why \?.*different choices"),
        (Item("pair-7", "", "why ?", ("a",), "a"), r"pair-7.*why \?.*different choices"),
        (Item("pair-7", "", "why ?", ("a", "b"), "c"), r"pair-7.*why \?.*'c' is none of"),
    ],
)
def test_items_that_cannot_be_asked_are_named(item, told):
    with pytest.raises(DataError, match=told):
        check_items([ITEM, item])


def test_png_keeps_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(image)))), image)
    check_items([Item("a", png_bytes(image), "q", ("a", "b"), "a")])
