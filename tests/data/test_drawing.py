"""Which records become pairs of which split: what belongs together stays together, and no record is lost."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermesflow.data.images import Fitted
from hermesflow.data.sources import drawing
from hermesflow.data.sources.drawing import Candidate, Rejected
from hermesflow.data.sources.store import open_store

SIZES = {"pairs": 4, "gap": 3, "base": 5}


class Records:
    """A source in memory, whose images are their own names."""

    def __init__(self, records, images=None):
        self._records, self._images = records, images or {}
        self.origin = {"source": "memory"}

    def records(self):
        yield from self._records

    def images(self, shard, members):
        yield from ((member, self._images.get(member, member.encode())) for member in members)

    def own_questions(self, candidate):
        return [{"question": "What?"}], Counter()


class Asked:
    block = 1

    def fault(self, candidate):
        return ""


def candidate(number, caption, prompt="", member=None):
    return Candidate(f"id{number}", caption, "file", number, "", member or f"{number}.jpg", prompt=prompt)


@contextmanager
def drawn_from(tmp_path, source, sizes, seed=7):
    def order_of(count):
        first = drawing.first_of_captions(drawing.readable(source.records()), seed=seed)
        return drawing.first_by_seed(drawing.readable(source.records()), count, seed=seed, first=first)

    path = tmp_path / "images.sqlite"
    path.unlink(missing_ok=True)
    with open_store(path, made_from="", retry=False) as store:
        fit = lambda encoded: Fitted(encoded, ())  # noqa: E731
        yield drawing.draw(source, store, Asked(), sizes, order_of=order_of, fit=fit), store


def splits_of(drawn, sizes):
    names = [split for split, size in sizes.items() for _ in range(size)]
    return list(zip(drawn.chosen, names, strict=False))


def spread(pairs):
    """How many splits each value is in, at most."""
    splits = {}
    for value, split in pairs:
        splits.setdefault(value, set()).add(split)
    return max(map(len, splits.values()), default=1)


def test_equal_captions_stand_in_one_split_and_none_is_set_aside(tmp_path):
    """Three captions that fill the splits: all records are drawn, whatever the order of the file."""
    captions = ["A cat."] * 2 + ["a  CAT."] * 2 + ["A dog."] * 3 + ["A cow."] * 5
    own = [candidate(n, caption) for n, caption in enumerate(captions)]
    for seed in range(20):
        orders = []
        for records in (own, own[::-1]):
            with drawn_from(tmp_path, Records(records), {"all": 12}, seed) as (drawn, _):
                assert len(drawn.chosen) == 12 and not drawn.rejected
                words = [one.caption.lower().split()[1] for one in drawn.chosen]
                assert sum(word != after for word, after in pairwise(words)) == 2
                orders.append([one.id for one in drawn.chosen])
        assert orders[0] == orders[1]


def test_a_group_of_captions_is_cut_only_where_its_split_ends(tmp_path):
    own = [candidate(n, f"caption {n // 2}") for n in range(40)]
    with drawn_from(tmp_path, Records(own), SIZES) as (drawn, _):
        assert len(drawn.chosen) == 12 and len(drawn.rejected) == 1  # gap has three places
        assert spread([(one.caption, split) for one, split in splits_of(drawn, SIZES)]) == 1
        assert drawn.rejected[0].reason == "same caption as split gap, which is full"


def test_no_prompt_is_in_two_splits(tmp_path):
    """Captions differ, and the parameters of Midjourney do not make another prompt."""
    own = [candidate(n, f"caption {n}", prompt=f"a fox {n // 4} --v {n % 4}") for n in range(40)]
    with drawn_from(tmp_path, Records(own), SIZES) as (drawn, _):
        assert len(drawn.chosen) == 12
        assert spread([(one.prompt.split()[2], split) for one, split in splits_of(drawn, SIZES)]) == 1
        assert drawn.rejected and {r.reason for r in drawn.rejected} <= {
            f"same prompt as split {split}, which is full" for split in SIZES
        }


def test_no_image_is_in_two_splits(tmp_path):
    """A row for each caption of an image, as data sets with several captions have them."""
    own = [candidate(n, f"caption {n}") for n in range(60)]
    images = {f"{n}.jpg": str(n // 5).encode() for n in range(60)}
    with drawn_from(tmp_path, Records(own, images), SIZES) as (drawn, store):
        assert len(drawn.chosen) == 12
        assert spread([(store.sha256(one.image), split) for one, split in splits_of(drawn, SIZES)]) == 1
        assert "same image as split pairs, which is full" in {one.reason for one in drawn.rejected}


def test_the_pairs_do_not_depend_on_the_sizes_of_other_splits(tmp_path):
    own = [candidate(n, f"caption {n // 3}", prompt=f"fox {n // 7}") for n in range(300)]
    found = []
    for sizes in (SIZES, {"pairs": 4}, {"pairs": 4, "gap": 70}):
        with drawn_from(tmp_path, Records(own), sizes) as (drawn, _):
            found.append([one.id for one in drawn.chosen[:4]])
    assert found[0] == found[1] == found[2]


def test_text_that_no_file_can_hold_is_set_aside(tmp_path):
    own = [candidate(0, "a \ud800 fox"), candidate("\udcff", "a fox"), candidate(1, "a dog")]
    with drawn_from(tmp_path, Records(own), {"pairs": 3}) as (drawn, _):
        assert [one.id for one in drawn.chosen] == ["id1"]
        assert [one.reason for one in drawn.rejected] == ["text that is not UTF-8"] * 2


TEXTS = st.sampled_from(["", " ", "a fox", "A  fox", "a dog", "\ud800", "a cow", "a hen", "a pig"])
RECORDS = st.lists(
    st.one_of(
        st.builds(
            lambda number, caption, prompt, image: candidate(number, caption, prompt, f"{image}.jpg"),
            st.integers(0, 15),
            TEXTS,
            TEXTS,
            st.integers(0, 9),
        ),
        st.builds(lambda number: Rejected("", "file", number, "broken"), st.integers(0, 99)),
    ),
    max_size=40,
)
NUMBERS = st.fixed_dictionaries({split: st.integers(0, 6) for split in SIZES})


@settings(max_examples=200)
@given(records=RECORDS, sizes=NUMBERS, seed=st.integers(0, 3))
def test_every_record_is_drawn_set_aside_or_not_needed(tmp_path_factory, records, sizes, seed):
    source = Records(records)
    with drawn_from(tmp_path_factory.getbasetemp(), source, sizes, seed) as (drawn, store):
        assert drawn.read == len(records)
        assert len(drawn.chosen) + len(drawn.rejected) <= drawn.read
        if len(drawn.chosen) < sum(sizes.values()):  # the source was read to its end
            assert len(drawn.chosen) + len(drawn.rejected) == drawn.read
        placed = splits_of(drawn, sizes)
        assert len({one.id for one in drawn.chosen}) == len(drawn.chosen)
        for key in (lambda c: " ".join(c.caption.casefold().split()), lambda c: store.sha256(c.image)):
            assert spread([(key(one), split) for one, split in placed]) == 1
        prompts = [(" ".join(one.prompt.casefold().split()), split) for one, split in placed]
        assert spread([pair for pair in prompts if pair[0]]) == 1
        for one in drawn.chosen:
            assert one in records
            assert store.sha256(one.image) == hashlib.sha256(one.member.encode()).hexdigest()


@pytest.mark.parametrize("seed", [0, 7])
def test_where_nothing_is_equal_the_order_is_that_of_seed_and_ids(seed):
    own = [candidate(n, f"caption {n}") for n in range(50)]
    first = drawing.first_of_captions(own, seed=seed)
    order = drawing.first_by_seed(own, 50, seed=seed, first=first)
    by_id = sorted(own, key=lambda one: drawing.seed_of("draw", seed, one.id))
    assert order.candidates == by_id and order.read == 50


def test_captions_that_differ_in_how_accents_are_written_are_in_one_split(tmp_path):
    own = [candidate(n, ("A caf\u00e9, {}", "a  CAFE\u0301, {}")[n % 2].format(n // 2)) for n in range(40)]
    with drawn_from(tmp_path, Records(own), SIZES) as (drawn, _):
        assert spread([(one.caption.split()[-1], split) for one, split in splits_of(drawn, SIZES)]) == 1
        assert drawn.rejected[0].reason == "same caption as split gap, which is full"
