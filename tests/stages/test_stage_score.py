import shutil

import numpy as np
import pytest

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json, read_table
from hermesflow.data.worlds.questions import Question
from hermesflow.selfplay.sharding import shard_folder
from hermesflow.stages import agreement, gather_scores
from hermesflow.stages.agreement import rank_agreement
from tests.support.selfplay_world import PAIRS, bytes_of, sample_all, score_all, world  # noqa: F401


@pytest.fixture
def sampled(world):  # noqa: F811
    config, layout = world
    sample_all(config, layout, shards=1)
    return config, layout


def test_one_shard_and_three_give_the_same_bytes(sampled):
    config, layout = sampled
    once = bytes_of(score_all(config, layout, shards=1))
    shutil.rmtree(layout.checkpoint(0, "base") / "scores")
    assert bytes_of(score_all(config, layout, shards=3)) == once
    assert set(once) == {"captions.parquet", "images.parquet", "manifest.json"}


def test_image_score_is_the_share_of_right_answers(sampled):
    config, layout = sampled
    folder = score_all(config, layout, shards=2)
    images = read_table(folder / "images.parquet", ["id", "candidate", "score", "right", "questions"])
    assert len(images) == PAIRS * 3 and images["questions"].between(5, 10).all()
    np.testing.assert_array_equal(images["score"], images["right"] / images["questions"])
    captions = read_table(folder / "captions.parquet", ["id", "candidate", "score"])
    assert len(captions) == PAIRS * 3 and captions["score"].between(-1, 1 + 1e-6).all()


def test_truncated_shard_is_named(sampled):
    config, layout = sampled
    folder = score_all(config, layout, shards=2)
    path = shard_folder(folder, shard=0, shards=2) / "images.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"0-of-2/images\.parquet"):
        gather_scores.run(config, layout, seed=0, checkpoint="base", shards=2)


def test_agreement_of_every_measure_and_method(sampled, monkeypatch):
    config, layout = sampled
    folder = score_all(config, layout, shards=1)
    monkeypatch.setattr(
        agreement,
        "judged_images",
        lambda *_, captions, **__: agreement.pd.DataFrame(
            [(i, k, k / 2, float(k == 2)) for i in captions for k in range(3)],
            columns=["id", "candidate", "share", "accepted"],
        ),
    )
    agreement.run(config, layout, seed=0)
    found = read_json(folder / "agreement.json")
    assert found["pairs"] == PAIRS
    assert set(found["captions"]) == {"embedding", "chrf", "bleu"}
    assert set(found["images"]) == {"generate", "likelihood", "probability"}
    assert found["images"]["likelihood"]["accepted"]["truth_mean"] == pytest.approx(1 / 3)


def test_rank_agreement_on_hand_made_pairs():
    scores = [np.array([0.1, 0.5, 0.9]), np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0])]
    truths = [np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 1.0]), np.array([0.0, 1.0, 1.0])]
    found = rank_agreement(scores, truths)
    assert found["kendall_tau"] == pytest.approx((1 - 1 / 3) / 2) and found["tau_pairs"] == 2
    assert found["best_beats_worst"] == pytest.approx(0.5) and found["choice_pairs"] == 2
    # the third pair is chosen by the lowest index on both sides
    assert found["truth_best"] == pytest.approx((3 + 1 + 0) / 3)
    assert found["truth_worst"] == pytest.approx((1 + 2 + 0) / 3)
    assert found["pairs"] == 3


def test_ties_in_scores_cost_tau_b_but_are_no_error():
    found = rank_agreement([np.array([0.0, 0.0, 1.0])], [np.array([0.0, 1.0, 2.0])])
    assert found["kendall_tau"] == pytest.approx(2 / 6**0.5)


def test_equal_truth_counts_half_and_leaves_tau_out():
    found = rank_agreement([np.array([0.0, 1.0])], [np.array([1.0, 1.0])])
    assert found["best_beats_worst"] == 0.5
    assert found["kendall_tau"] is None and found["tau_pairs"] == 0


def test_judge_reads_every_candidate(sampled, monkeypatch):
    config, layout = sampled
    from hermesflow.data.microworld.captions import caption_of
    from hermesflow.data.microworld.scenes import render
    from hermesflow.data.worlds.scenes import Scene, SceneObject

    scene = Scene((SceneObject("circle", "red", "large", 0),))
    caption = caption_of(scene, "colors")
    image = render(scene, image_size=48)

    class Codec:
        def to_pixels(self, images):
            return np.stack([image if codes[0] else np.full_like(image, 245) for codes in images])

    monkeypatch.setattr(agreement, "load_codec", lambda *_, **__: Codec())
    question = Question("what color is the circle ?", ("red", "blue"), "red", "color")
    judged = agreement.judged_images(
        config, layout, images_by_id={"a": np.array([[1], [0]])}, captions={"a": caption}, questions={"a": [question]}
    )
    assert judged.to_dict("records") == [
        {"id": "a", "candidate": 0, "share": 1.0, "accepted": 1.0},
        {"id": "a", "candidate": 1, "share": 0.0, "accepted": 0.0},
    ]
