"""Rules of preferences and sharding that hold whatever the input; hypothesis looks for one that breaks them."""

import math
from dataclasses import replace

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from hermesflow.selfplay.preferences import (
    Candidate,
    Pair,
    Threshold,
    first_pair,
    group_candidates,
    homologous_table,
    select,
    updated_pair,
)
from hermesflow.selfplay.sharding import check_ids, shard_batches, sorted_candidates

SCORES = st.floats(-1, 1) | st.sampled_from([0.0, 0.5, 1.0])
CANDIDATES = st.builds(Candidate, st.sampled_from(["a", "b", "c", "d"]), SCORES)
GROUPS = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.lists(CANDIDATES, min_size=1, max_size=6))
PREVIOUS = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.builds(Pair, CANDIDATES, CANDIDATES))
THRESHOLDS = st.builds(Threshold, min_score=st.floats(-1, 1) | st.just(-math.inf), min_margin=st.floats(0, 1))


@given(GROUPS, PREVIOUS, THRESHOLDS)
def test_kept_pairs_are_never_inverted_tied_equal_or_below_the_threshold(groups, previous, threshold):
    for pair in select(groups, previous, threshold).pairs.values():
        assert pair.chosen.score > pair.rejected.score
        assert pair.chosen.content != pair.rejected.content
        assert pair.chosen.score > threshold.min_score
        assert pair.chosen.score - pair.rejected.score > threshold.min_margin


@given(GROUPS, PREVIOUS, THRESHOLDS)
def test_every_id_is_kept_or_counted_as_dropped(groups, previous, threshold):
    counts = select(groups, previous, threshold).counts
    assert counts["ids"] == len(groups) == counts["kept"] + sum(counts["dropped"].values())
    assert counts["candidates"] == sum(map(len, groups.values()))
    assert counts["updated"] == len(groups.keys() & previous.keys())


@given(GROUPS, PREVIOUS, THRESHOLDS)
def test_ages_count_every_kept_pair_and_chosen_is_always_new(groups, previous, threshold):
    selection = select(groups, previous, threshold)
    ages, kept = selection.counts["ages"], selection.counts["kept"]
    assert ages["chosen"] == ({"0": kept} if kept else {}) and sum(ages["rejected"].values()) == kept
    old = sum(pair_id in previous for pair_id in selection.pairs)
    assert sum(n for age, n in ages["rejected"].items() if int(age)) == old


@given(GROUPS, PREVIOUS, THRESHOLDS, st.randoms())
def test_the_pair_of_an_id_does_not_depend_on_the_others(groups, previous, threshold, random):
    together = select(groups, previous, threshold).pairs
    ids = list(groups)
    random.shuffle(ids)
    alone = {i: select({i: groups[i]}, previous, threshold).pairs for i in ids}
    assert {i: pair for one in alone.values() for i, pair in one.items()} == together


@given(st.lists(CANDIDATES, min_size=1, max_size=8), st.randoms())
def test_scores_of_best_and_worst_do_not_depend_on_the_order(candidates, random):
    pair = first_pair(candidates)
    assert pair.chosen.score == max(c.score for c in candidates)
    assert pair.rejected.score == min(c.score for c in candidates)
    random.shuffle(candidates)
    shuffled = first_pair(candidates)
    assert (shuffled.chosen.score, shuffled.rejected.score) == (pair.chosen.score, pair.rejected.score)


@given(st.lists(CANDIDATES, min_size=1), st.builds(Pair, CANDIDATES, CANDIDATES))
def test_an_update_takes_the_newest_policys_best_and_rejects_one_of_the_previous_pair(candidates, previous):
    pair = updated_pair(candidates, previous)
    assert pair.chosen.score == max(c.score for c in candidates)
    kept = previous.chosen if pair.chosen.score > previous.chosen.score else previous.rejected
    assert pair.rejected == replace(kept, age=kept.age + 1) and pair.chosen.age == 0


@given(GROUPS, GROUPS)
def test_homologous_ids_have_both_kinds_and_all_others_are_counted(captions, images):
    images = {i: [Candidate(c.content.encode(), c.score) for c in group] for i, group in images.items()}
    first, second = (select(group, {}, Threshold()) for group in (captions, images))
    table, counts = homologous_table(first, second)
    assert set(table["id"]) == first.pairs.keys() & second.pairs.keys()
    assert counts["homologous"]["kept"] == len(table)
    for kind, selection in (("captions", first), ("images", second)):
        lonely = counts["homologous"]["dropped"][kind]["other side missing"]
        assert lonely + len(table) == len(selection.pairs)


@given(GROUPS, GROUPS)
def test_any_keeps_every_pair_of_either_kind_and_counts_it_once(captions, images):
    images = {i: [Candidate(c.content.encode(), c.score) for c in group] for i, group in images.items()}
    first, second = (select(group, {}, Threshold()) for group in (captions, images))
    both, _ = homologous_table(first, second)
    table, counts = homologous_table(first, second, "any")
    kept, alone = counts["homologous"]["kept"], counts["homologous"]["alone"]
    assert set(table["id"]) == first.pairs.keys() | second.pairs.keys() and table["id"].is_unique
    assert kept == len(both) and kept + sum(alone.values()) == len(table)
    assert table["chosen_caption"].notna().sum() == len(first.pairs) == kept + alone["captions"]
    assert table["chosen_image_score"].notna().sum() == len(second.pairs) == kept + alone["images"]


@given(st.lists(st.integers(), unique=True, max_size=40), st.integers(1, 7), st.integers(1, 9))
def test_shards_hold_every_pair_once_in_batches_that_their_number_does_not_change(numbers, batch, shards):
    ids = [str(number) for number in numbers]
    dealt = [shard_batches(ids, batch=batch, shard=shard, shards=shards) for shard in range(shards)]
    whole = shard_batches(ids, batch=batch, shard=0, shards=1)
    assert sorted(part for parts in dealt for part in parts) == sorted(whole)
    check_ids("file", [i for parts in dealt for part in parts for i in part], ids)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.randoms())
def test_gathered_rows_do_not_depend_on_shards_or_the_order_in_them(pairs, n, shards, random):
    ids = [f"p{i}" for i in range(pairs)]
    rows = [(i, c, random.random()) for i in ids for c in range(n)]
    whole = pd.DataFrame(rows, columns=["id", "candidate", "score"])
    random.shuffle(rows)
    tables = [pd.DataFrame(rows[shard::shards], columns=list(whole)) for shard in range(shards)]
    gathered = sorted_candidates(tables, ids, {"id": "str", "candidate": "int64", "score": "float64"})
    pd.testing.assert_frame_equal(gathered, whole, check_dtype=False)
    whole["caption"] = "c"
    first = random.randint(1, n)
    grouped = group_candidates(whole.sample(frac=1, random_state=0), content="caption", first=first)
    scores = whole.groupby("id")["score"]
    assert {i: [c.score for c in group] for i, group in grouped.items()} == {
        i: list(group)[:first] for i, group in scores
    }
