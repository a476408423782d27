import numpy as np
import pytest
import torch

from hermesflow.data.microworld.captions import caption_of
from hermesflow.data.microworld.scenes import render
from hermesflow.data.microworld.world import make_scene
from hermesflow.data.worlds.language import KINDS
from hermesflow.evaluation.worlds import clip
from hermesflow.evaluation.worlds.clip import (
    Clip,
    contrastive_loss,
    features,
    image_text_scores,
    load_clip,
    retrieval_accuracy,
    save_clip,
    train_clip,
)


@pytest.fixture(scope="module")
def pairs():
    generator = np.random.default_rng(0)
    scenes = [(make_scene(KINDS[i % len(KINDS)], generator), KINDS[i % len(KINDS)]) for i in range(140)]
    return np.stack([render(s, image_size=48) for s, _ in scenes]), [caption_of(s, kind) for s, kind in scenes]


@pytest.fixture(scope="module")
def trained(pairs):
    return train_clip(*pairs, steps=60, seed=0)


def test_loss_of_known_vectors():
    vectors = torch.eye(3)
    # each row: one logit of 2, two of 0
    expected = torch.log(torch.exp(torch.tensor(2.0)) + 2) - 2
    assert contrastive_loss(vectors, vectors, torch.tensor(2.0)) == pytest.approx(expected.item())
    assert contrastive_loss(vectors, vectors.roll(1, 0), torch.tensor(2.0)) == pytest.approx(expected.item() + 2)


def test_training_learns_to_match(pairs, trained):
    model, losses = trained
    untrained, _ = train_clip(*pairs, steps=1, seed=0)
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    assert retrieval_accuracy(model, *pairs) > 4 * max(retrieval_accuracy(untrained, *pairs), 0.01)


def test_same_seed_same_weights(pairs):
    first, second = (train_clip(*pairs, steps=2, seed=0)[0].state_dict() for _ in range(2))
    other = train_clip(*pairs, steps=2, seed=1)[0].state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_score_is_a_hundred_times_the_cosine(pairs, trained):
    model, _ = trained
    images, captions = pairs[0][:5], pairs[1][:5]
    with torch.inference_mode():
        cosines = torch.cosine_similarity(model.image_vectors(clip.to_tensor(images)), model.text_vectors(captions))
    np.testing.assert_allclose(image_text_scores(model, images, captions), 100 * cosines.clamp(min=0), atol=1e-4)


def test_own_caption_scores_above_another(pairs, trained):
    images, captions = pairs
    own = image_text_scores(trained[0], images, captions)
    assert own.mean() > image_text_scores(trained[0], images, captions[1:] + captions[:1]).mean() + 10


def test_negative_cosine_scores_zero():
    model = Clip(["a"], image_size=48, max_words=2).eval()
    vectors = torch.nn.functional.normalize(torch.ones(1, clip.PROJECTION), dim=-1)
    model.image_vectors = lambda images: vectors
    model.text_vectors = lambda texts: -vectors
    assert image_text_scores(model, np.zeros((1, 48, 48, 3), np.uint8), ["a"])[0] == 0


def test_padding_changes_nothing(trained):
    with torch.inference_mode():
        alone = trained[0].text_vectors(["a circle"])
        padded = trained[0].text_vectors(["a circle", "a small blue square above a cyan circle"])[:1]
    torch.testing.assert_close(alone, padded)


def test_saved_and_loaded_alike(pairs, trained, tmp_path):
    save_clip(trained[0], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert np.array_equal(features(load_clip(tmp_path), pairs[0]), features(trained[0], pairs[0]))


def test_torchmetrics_takes_it_as_extractor(pairs, trained):
    from torchmetrics.image.fid import FrechetInceptionDistance

    from hermesflow.evaluation.frechet import frechet_distances

    real, fake = pairs[0][:100], pairs[0][:80] // 2
    trained[0].num_features = clip.WIDTH  # torchmetrics would run it on images of 299 pixels to find out
    library = FrechetInceptionDistance(feature=trained[0])
    with torch.inference_mode():
        library.update(clip.to_tensor(real), real=True)
        library.update(clip.to_tensor(fake), real=False)
    own = frechet_distances(
        np.ones((1, 80)), features(trained[0], fake).astype(float), features(trained[0], real).astype(float)
    )
    assert own[0] == pytest.approx(library.compute().item(), rel=1e-3)
    assert own[0] > 1


def test_unknown_words_are_allowed(trained):
    with torch.inference_mode():
        assert trained[0].text_vectors(["a photograph of something else"]).isfinite().all()
