import shutil

import numpy as np
import pandas as pd
import pytest

from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import read_json, read_table, write_table
from hermesflow.core.images import read_cut, read_form, read_images, write_images
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import read_pairs, write_pairs
from hermesflow.selfplay.sharding import shard_batches, shard_folder
from hermesflow.stages import gather_candidates, sample
from tests.support.selfplay_world import PAIRS, bytes_of, sample_all, world  # noqa: F401


@pytest.fixture
def sampled(world):  # noqa: F811
    config, layout = world
    sample_all(config, layout, shards=2)
    return config, layout


def test_one_shard_and_three_give_the_same_bytes(world):  # noqa: F811
    config, layout = world
    once = bytes_of(sample_all(config, layout, shards=1))
    folder = layout.checkpoint(0, "base") / "candidates"
    shutil.rmtree(folder)
    assert bytes_of(sample_all(config, layout, shards=3)) == once
    assert set(once) == {"captions.parquet", "images.npy", "images.json", "manifest.json"}


def test_candidates_are_complete_in_the_order_of_the_pairs_and_differ(sampled):
    config, layout = sampled
    ids = list(read_pairs(layout.data("pairs"))["id"])
    folder = layout.checkpoint(0, "base") / "candidates"
    captions = read_table(folder / "captions.parquet", ["id", "candidate", "caption"])
    assert list(captions["id"]) == [i for i in ids for _ in range(3)]
    assert list(captions["candidate"]) == [0, 1, 2] * PAIRS
    code_ids, codes = read_images(folder / "images.npy")
    assert code_ids == ids and codes.shape == (PAIRS, 3, config.num_image_tokens)
    assert codes.max() < config.codebook_size
    assert len({row.tobytes() for pair in codes for row in pair}) == PAIRS * 3


def test_captions_that_the_model_cuts_are_counted_in_the_manifest(world):  # noqa: F811
    config, layout = world
    rows = list(WORLD.make_pairs("pairs", PAIRS, config=config.data))
    long = [{**row, "caption": " ".join(["red"] * 200)} if number in (1, 4) else row for number, row in enumerate(rows)]
    assert "counts" not in read_json(sample_all(config, layout, shards=2) / "manifest.json")
    write_pairs(layout.data("pairs"), long)
    folder = sample_all(config, layout, shards=2)
    assert read_json(folder / "manifest.json")["counts"] == {"prompts that the model cut": 2}
    assert read_cut(folder / "images.npy") == [rows[1]["id"], rows[4]["id"]]


def test_shards_beyond_the_batches_are_empty_and_gather_takes_them(world):  # noqa: F811
    config, layout = world
    folder = sample_all(config, layout, shards=6)
    ids, codes = read_images(shard_folder(folder, shard=5, shards=6) / "images.npy")
    assert ids == [] and codes.shape[1:] == (3, config.num_image_tokens)
    assert len(read_images(folder / "images.npy")[0]) == PAIRS


def test_other_seed_gives_other_candidates(world):  # noqa: F811
    config, layout = world
    base = layout.checkpoint(0, "base")
    shutil.copytree(base / "model", layout.checkpoint(1, "base") / "model")
    for seed in (0, 1):
        sample.run(config, layout, seed=seed, checkpoint="base")
    images = [read_images(shard_folder(layout.checkpoint(s, "base") / "candidates", shard=0, shards=1) / "images.npy")
              for s in (0, 1)]  # fmt: skip
    assert not np.array_equal(images[0][1], images[1][1])


def test_truncated_shard_is_named(sampled):
    config, layout = sampled
    part = shard_folder(layout.checkpoint(0, "base") / "candidates", shard=1, shards=2)
    for name in ("captions.parquet", "images.npy"):
        whole = (part / name).read_bytes()
        (part / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArtifactError, match=rf"1-of-2/{name}"):
            gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=2)
        (part / name).write_bytes(whole)
    gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[t["id"] != t["id"].iloc[0]], "is missing"),
        (lambda t: t.iloc[1:], r"has candidates \[1, 2\] instead of 0 to 2"),
        (lambda t: pd.concat([t, t.iloc[:1]]), r"has candidates \[0, 0, 1, 2\]"),
        (lambda t: pd.concat([t, t.iloc[:3].assign(id="stranger")]), "`stranger` does not belong here"),
    ],
)
def test_missing_repeated_and_foreign_captions_are_refused(sampled, change, message):
    config, layout = sampled
    path = shard_folder(layout.checkpoint(0, "base") / "candidates", shard=0, shards=2) / "captions.parquet"
    write_table(path, change(read_table(path, ["id"])))
    with pytest.raises(ArtifactError, match=rf"0-of-2/captions\.parquet: pair .*{message}"):
        gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=2)


def test_missing_image_is_refused(sampled):
    config, layout = sampled
    path = shard_folder(layout.checkpoint(0, "base") / "candidates", shard=0, shards=2) / "images.npy"
    ids, codes = read_images(path)
    write_images(path, ids[1:], np.array(codes[1:]), read_form(path))
    with pytest.raises(ArtifactError, match=rf"0-of-2/images\.npy: pair `{ids[0]}` is missing"):
        gather_candidates.run(config, layout, seed=0, checkpoint="base", shards=2)


def test_tokens_of_other_pairs_are_refused(world):  # noqa: F811
    config, layout = world
    path = layout.seen("pairs")
    ids, codes = read_images(path)
    write_images(path, [*ids[1:], "stranger"], np.array(codes), read_form(path))
    with pytest.raises(ArtifactError, match=rf"images/seen/pairs\.npy: pair `{ids[0]}` is missing"):
        sample.run(config, layout, seed=0, checkpoint="base")


def test_shards_deal_whole_batches_and_no_pair_twice():
    ids = [str(i) for i in range(7)]
    dealt = [shard_batches(ids, batch=2, shard=s, shards=3) for s in range(3)]
    assert dealt == [[["0", "1"], ["6"]], [["2", "3"]], [["4", "5"]]]
    with pytest.raises(ConfigError, match="counted from 0"):
        shard_batches(ids, batch=2, shard=3, shards=3)
