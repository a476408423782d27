import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Checkpoint
from hermesflow.core.errors import ArtifactError, DataError
from hermesflow.core.files import Layout, read_table
from hermesflow.core.images import ImageForm, read_images, write_images
from hermesflow.report import audit
from hermesflow.selfplay.preferences import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Candidate,
    Pair,
    Selection,
    Threshold,
    caption_pairs,
    captions_table,
    first_pair,
    group_candidates,
    homologous_table,
    image_arrays,
    image_pairs,
    images_table,
    reason_to_drop,
    select,
    updated_pair,
)
from hermesflow.stages import prefer
from tests.support.pair_world import make_candidates, make_world, small_config

ANY = Threshold()


def scored(*scores: float, prefix: str = "new") -> list[Candidate]:
    return [Candidate(f"{prefix} {k}", score) for k, score in enumerate(scores)]


def pair(chosen: float, rejected: float) -> Pair:
    return Pair(Candidate("w", chosen), Candidate("l", rejected))


def test_first_pair_is_best_and_worst_and_ties_go_to_the_lowest_candidate():
    found = first_pair(scored(0.5, 0.9, 0.2, 0.9, 0.2))
    assert (found.chosen.content, found.rejected.content) == ("new 1", "new 2")


@pytest.mark.parametrize(
    ("best", "chosen", "rejected"),
    [
        (0.95, "new 1", "w"),  # c beats w: (c, w)
        (0.9, "new 1", "l"),  # c equals w: (c, l)
        (0.5, "new 1", "l"),  # c loses to w: (c, l)
    ],
)
def test_update_is_equation_10(best, chosen, rejected):
    found = updated_pair(scored(0.1, best), pair(0.9, 0.3))
    assert (found.chosen.content, found.rejected.content) == (chosen, rejected)


@pytest.mark.parametrize(
    ("found", "threshold", "reason"),
    [
        (pair(0.9, 0.3), ANY, None),
        (pair(0.3, 0.3), ANY, "tie"),
        (pair(0.2, 0.3), ANY, "inverted"),
        (Pair(Candidate("same", 0.9), Candidate("same", 0.1)), ANY, "same text"),
        (Pair(Candidate(b"12", 0.9), Candidate(b"12", 0.1)), ANY, "same image"),
        (pair(0.6, 0.3), Threshold(min_score=0.6), "below threshold"),  # strictly above
        (pair(0.61, 0.3), Threshold(min_score=0.6), None),
        (pair(0.75, 0.5), Threshold(min_margin=0.25), "below threshold"),  # strictly more
        (pair(0.76, 0.5), Threshold(min_margin=0.25), None),
    ],
)
def test_reasons_to_drop(found, threshold, reason):
    assert reason_to_drop(found, threshold) == reason


def test_no_tie_and_no_inversion_ever_whatever_the_scores():
    draw = random.Random(0)
    levels = (0.0, 0.25, 0.5, 0.75, 1.0)  # few levels: many ties
    kept = 0
    for _, min_score in itertools.product(range(300), (0.0, 0.6)):
        previous: dict[str, Pair] = {}
        for iteration in range(4):
            new = {f"p{k}": scored(*draw.choices(levels, k=3), prefix=f"{iteration}") for k in range(5)}
            selection = select(new, previous, Threshold(min_score=min_score))
            for pair_id, found in selection.pairs.items():
                assert found.chosen.score > found.rejected.score
                assert found.chosen.score > min_score
                assert found.chosen.content != found.rejected.content
                assert found.chosen.score == max(c.score for c in new[pair_id])
            counts = selection.counts
            assert counts["kept"] + sum(counts["dropped"].values()) == counts["ids"] == 5
            previous = selection.pairs
            kept += len(selection.pairs)
    assert kept > 1000


def test_a_pair_absent_before_starts_as_in_the_first_iteration():
    new = {"old": scored(0.8, 0.1), "fresh": scored(0.8, 0.1)}
    selection = select(new, {"old": pair(0.9, 0.3)}, ANY)
    assert selection.pairs["old"].rejected.content == "l"
    assert selection.pairs["fresh"].rejected.content == "new 1"
    assert selection.counts["updated"] == 1


def test_only_ids_with_both_kinds_are_homologous():
    captions = select({"a": scored(0.1, 0.9), "b": scored(0.5, 0.5), "c": scored(0.9, 0.2)}, {}, ANY)
    drawn = [Candidate(b"12", 0.2), Candidate(b"34", 0.8)]
    images = select({"c": drawn, "b": drawn, "a": drawn[:1]}, {}, ANY)  # another order: joined by id
    table, counts = homologous_table(captions, images)
    assert table["id"].tolist() == ["c"]
    assert table["chosen_caption"][0] == "new 0"
    assert (table["chosen_image_score"][0], images.pairs["c"].chosen.content) == (0.8, b"34")
    assert counts["homologous"] == {
        "kept": 1,
        "dropped": {"captions": {"other side missing": 1}, "images": {"other side missing": 1}},
    }
    assert counts["captions"]["dropped"] == {"tie": 1}


def test_any_keeps_ids_with_one_kind_without_values_of_the_other(tmp_path):
    captions = select({"a": scored(0.1, 0.9), "b": scored(0.5, 0.5), "c": scored(0.9, 0.2)}, {}, ANY)
    drawn = [Candidate(b"12", 0.2), Candidate(b"34", 0.8)]
    images = select({"c": drawn, "b": drawn, "a": drawn[:1]}, {}, ANY)
    table, counts = homologous_table(captions, images, "any")
    table.to_parquet(tmp_path / "pairs.parquet")
    for one in (table, pd.read_parquet(tmp_path / "pairs.parquet")):
        rows = one.set_index("id")
        assert sorted(rows.index) == ["a", "b", "c"]
        assert rows["chosen_caption"].notna().to_dict() == {"a": True, "b": False, "c": True}
        assert rows["rejected_image_score"].notna().to_dict() == {"a": False, "b": True, "c": True}
        assert caption_pairs(one[one["chosen_caption"].notna()]) == captions.pairs
    homologous = {"kept": 1, "alone": {"captions": 1, "images": 1}, "dropped": {"captions": {}, "images": {}}}
    assert counts["homologous"] == homologous
    report = audit.preferences_table({"pair-1": {0: counts}})
    assert report.values.set_index("side")["trained on"].to_dict() == {"captions": 2, "images": 2}
    assert "one side alone is trained on too" in report.notes[0]


def test_any_keeps_tokens_of_captions_that_were_cut(tmp_path):
    cut = [Candidate("x", 0.1, tokens=(4, 5), cut=True), Candidate("y", 0.9)]
    captions, drawn = select({"a": cut, "c": scored(0.9, 0.2)}, {}, ANY), [Candidate(b"1", 0.2), Candidate(b"3", 0.8)]
    table, _ = homologous_table(captions, select({"b": drawn, "c": drawn}, {}, ANY), "any")
    table.to_parquet(tmp_path / "pairs.parquet")
    for one in (table, pd.read_parquet(tmp_path / "pairs.parquet")):
        assert caption_pairs(one[one["chosen_caption"].notna()]) == captions.pairs


def test_tables_are_read_back_as_written(tmp_path):
    captions = {"a": pair(0.9, 0.3)}
    captions_table(captions).to_parquet(tmp_path / "pairs.parquet")
    assert caption_pairs(pd.read_parquet(tmp_path / "pairs.parquet")) == captions


def test_images_are_read_back_as_written(tmp_path):
    form = ImageForm("codes", (2,), "uint16")
    sides = [np.array(codes, dtype=np.uint16) for codes in ((1, 2), (3, 500))]
    images = {"a": Pair(*(Candidate(side.tobytes(), score) for side, score in zip(sides, (0.9, 0.1), strict=True)))}
    images_table(images).to_parquet(tmp_path / "pairs.parquet")
    assert image_arrays(images, form).dtype == np.uint16
    write_images(tmp_path / "images.npy", ["a"], image_arrays(images, form), form)
    ids, arrays = read_images(tmp_path / "images.npy", form)
    assert arrays.tolist() == [[[1, 2], [3, 500]]]
    assert image_pairs(pd.read_parquet(tmp_path / "pairs.parquet"), dict(zip(ids, arrays, strict=True))) == images


def test_candidates_are_grouped_by_id_and_cut_to_the_first():
    rows = [("b", 1, "b1", 0.1), ("a", 0, "a0", 0.2), ("b", 0, "b0", 0.3), ("a", 1, "a1", 0.4)]
    table = pd.DataFrame(rows, columns=["id", "candidate", "caption", "score"])
    groups = group_candidates(table, content="caption", first=None)
    assert {k: [c.content for c in v] for k, v in groups.items()} == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert group_candidates(table, content="caption", first=1)["b"] == [Candidate("b0", 0.3)]
    assert group_candidates(table, content="caption", first=2) == groups
    with pytest.raises(DataError, match="first 3 candidates"):
        group_candidates(table, content="caption", first=3)
    assert group_candidates(table[:0], content="caption", first=None) == {}
    with pytest.raises(DataError, match="only 0 were sampled"):
        group_candidates(table[:0], content="caption", first=1)
    with pytest.raises(DataError, match=r"`a` has caption candidates \[0\] instead of 0\.\.1, once each; gather"):
        group_candidates(table[:3], content="caption", first=None)
    with pytest.raises(DataError, match="not a number"):
        group_candidates(table.assign(score=[0.1, float("nan"), 0.3, 0.4]), content="caption", first=None)


@pytest.fixture
def world(tmp_path) -> tuple[Config, Layout]:
    config = small_config()
    return config, make_world(tmp_path / "results", config, pairs=12)


def preferences(layout: Layout, checkpoint: str) -> pd.DataFrame:
    path = layout.checkpoint(0, checkpoint) / "preferences" / "preferences.parquet"
    return read_table(path, [*CAPTION_COLUMNS, *IMAGE_COLUMNS]).set_index("id")


def images_of(layout: Layout, checkpoint: str) -> dict[str, list[list[int]]]:
    """Codes of chosen and rejected image by id."""
    ids, codes = read_images(layout.checkpoint(0, checkpoint) / "preferences" / "images.npy")
    return dict(zip(ids, codes.tolist(), strict=True))


def test_stage_joins_by_id_whatever_the_order_of_the_files(world):
    config, layout = world
    scores = layout.checkpoint(0, "base") / "scores" / "images.parquet"
    table = pd.read_parquet(scores)
    table.sample(frac=1.0, random_state=0).to_parquet(scores)
    prefer.run(config, layout, seed=0, checkpoint="pair-1")
    found, images = preferences(layout, "pair-1"), images_of(layout, "pair-1")
    ids, codes = read_images(layout.checkpoint(0, "base") / "candidates" / "images.npy")
    by_candidate = table.set_index(["id", "candidate"])["score"]
    assert len(found) > 5
    for pair_id, row in found.iterrows():
        own = by_candidate[pair_id]
        assert row["chosen_image_score"] == own.max() and row["rejected_image_score"] == own.min()
        assert images[pair_id] == codes[ids.index(pair_id), [own.idxmax(), own.idxmin()]].tolist()


def test_stage_uses_only_the_first_candidates_where_told(world):
    config, layout = world
    prefer.run(config, layout, seed=0, checkpoint="pair-1-n2")
    scores = pd.read_parquet(layout.checkpoint(0, "base") / "scores" / "captions.parquet")
    best = scores[scores["candidate"] < 2].groupby("id")["score"].max()
    found = preferences(layout, "pair-1-n2")
    assert len(found) and all(row["chosen_caption_score"] == best[i] for i, row in found.iterrows())
    counts = json.loads((layout.checkpoint(0, "pair-1-n2") / "preferences" / "counts.json").read_text())
    assert counts["captions"]["candidates"] == 2 * 12


def test_stage_says_what_is_wrong_with_its_inputs(world):
    config, layout = world
    scores = layout.checkpoint(0, "base") / "scores" / "captions.parquet"
    table = pd.read_parquet(scores)
    for broken in (table[1:], pd.concat([table, table[:1]]), table.assign(id="of another checkpoint")):
        broken.to_parquet(scores)
        with pytest.raises(DataError, match=r"captions\.parquet"):
            prefer.run(config, layout, seed=0, checkpoint="pair-1")
    scores.write_bytes(b"PAR1 cut off")
    with pytest.raises(ArtifactError, match=r"captions\.parquet"):
        prefer.run(config, layout, seed=0, checkpoint="pair-1")


def test_stage_keeps_any_pair_where_a_checkpoint_asks_for_it(world):
    config, layout = world
    entry = replace(config.checkpoints["pair-1"], pairs="any")
    config = replace(config, checkpoints={"both-1": config.checkpoints["pair-1"], "any-1": entry})
    scores = layout.checkpoint(0, "base") / "scores" / "images.parquet"
    table = pd.read_parquet(scores)
    table.loc[table["id"] < "pairs-4", "score"] = 0.5
    table.to_parquet(scores)
    for checkpoint in config.checkpoints:
        prefer.run(config, layout, seed=0, checkpoint=checkpoint)
    both, some = (preferences(layout, checkpoint) for checkpoint in config.checkpoints)
    assert 0 < len(both) < len(some) == 12
    pd.testing.assert_frame_equal(some.loc[both.index], both)


def test_stage_refuses_an_empty_set(world):
    config, layout = world
    strict = replace(config, preferences=replace(config.preferences, min_image_score=1.0))
    with pytest.raises(DataError, match="min_image_score"):
        prefer.run(strict, layout, seed=0, checkpoint="pair-1")


def test_same_inputs_give_identical_files(world, tmp_path):
    config, layout = world
    for name in ("first", "second"):
        prefer.run(config, layout, seed=0, checkpoint="pair-1")
        folder = layout.checkpoint(0, "pair-1") / "preferences"
        folder.rename(tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert len(files) == 7
    assert all((tmp_path / "first" / f).read_bytes() == (tmp_path / "second" / f).read_bytes() for f in files)


def test_rejected_answers_grow_old_by_equation_10():
    """Iterations 1 to 4 of two ids: `a` gets better every time, `b` never."""
    previous: dict[str, Pair] = {}
    counted = []
    for best in (0.2, 0.4, 0.6, 0.8):
        new = {"a": scored(best, 0.1, prefix=str(best)), "b": scored(0.2, 0.1, prefix=str(best))}
        selection = select(new, previous, ANY)
        previous = selection.pairs
        counted.append(selection.counts["ages"]["rejected"])
    # a rejects what was chosen one iteration ago, b what was rejected in the first
    assert counted == [{"0": 2}, {"1": 2}, {"1": 1, "2": 1}, {"1": 1, "3": 1}]
    assert (previous["a"].rejected.content, previous["b"].rejected.content) == ("0.6 0", "0.2 1")


def test_ages_are_read_back_as_written(tmp_path):
    old = Pair(Candidate("w", 0.9), Candidate("l", 0.3, age=2))
    captions = {"a": old, "b": pair(0.9, 0.3)}
    captions_table(captions).to_parquet(tmp_path / "pairs.parquet")
    assert caption_pairs(pd.read_parquet(tmp_path / "pairs.parquet")) == captions
    assert "rejected_age" not in captions_table({"b": captions["b"]})  # where all are new
    drawn = {"a": Pair(Candidate(b"12", 0.9), Candidate(b"34", 0.3, age=1))}
    table, _ = homologous_table(Selection(captions, {}), Selection(drawn, {}))
    assert list(table) == [*CAPTION_COLUMNS, *IMAGE_COLUMNS[1:]]  # what training reads stays as it was
    arrays = {"a": np.frombuffer(b"1234", dtype=np.uint8).reshape(2, 2)}
    assert image_pairs(images_table(drawn), arrays) == drawn


def grow(config, layout, tree):
    """Preferences of every checkpoint, and new candidates of each."""
    config = replace(config, checkpoints=tree)
    for seed, checkpoint in enumerate(tree, start=5):
        prefer.run(config, layout, seed=0, checkpoint=checkpoint)
        ids = [f"pairs-{k}" for k in range(12)]
        make_candidates(layout.checkpoint(0, checkpoint), ids, n=4, config=config, seed=seed)


def counts_of(layout, checkpoint):
    return json.loads((layout.checkpoint(0, checkpoint) / "preferences" / "counts.json").read_text())


def test_fresh_rejected_answers_are_the_worst_of_the_newest_candidates(world):
    config, layout = world
    tree = {
        "a": Checkpoint(parent="base", objective="pair"),
        "old": Checkpoint(parent="a", objective="pair"),
        "new": Checkpoint(parent="a", objective="pair", rejected="fresh"),
        "after": Checkpoint(parent="new", objective="pair"),
    }
    grow(config, layout, tree)
    for kind, column in (("captions", "rejected_caption_score"), ("images", "rejected_image_score")):
        scores = pd.read_parquet(layout.checkpoint(0, "a") / "scores" / f"{kind}.parquet").groupby("id")["score"]
        found = preferences(layout, "new")
        assert found[column].to_dict() == scores.min()[found.index].to_dict() and len(found)
        kept, before = (counts_of(layout, name)[kind] for name in ("new", "old"))
        assert kept["ages"]["rejected"] == {"0": kept["kept"]} and kept["updated"] == 0
        assert before["ages"]["rejected"].keys() <= {"0", "1"} and before["ages"]["rejected"]["1"] > 0
        assert max(map(int, counts_of(layout, "after")[kind]["ages"]["rejected"])) == 1  # of the fresh pair


def test_any_tree_of_checkpoints_can_be_grown(world):
    config, layout = world
    tree = {
        "a": Checkpoint(parent="base", objective="pair"),
        "b": Checkpoint(parent="a", objective="pair"),
        "c": Checkpoint(parent="b", objective="pair"),
    }
    grow(config, layout, tree)
    a, b, c = (preferences(layout, name) for name in tree)
    images = {name: images_of(layout, name) for name in "ab"}
    both = a.index.intersection(b.index)
    for i in both:  # the rejected side of b is one of the two sides of a: Eq. 10
        assert b["rejected_caption"][i] in (a["chosen_caption"][i], a["rejected_caption"][i])
        assert images["b"][i][1] in images["a"][i]
    assert len(both) and len(c) and not b.equals(c)
    assert max(map(int, counts_of(layout, "c")["captions"]["ages"]["rejected"])) == 2
