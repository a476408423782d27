"""The independent judge: reading images, answering, accepting, and scoring captions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hermesflow.data.microworld.captions import caption_of
from hermesflow.data.microworld.judge import read_images
from hermesflow.data.microworld.scenes import COLORS, GROUND, render
from hermesflow.data.microworld.world import WORLD, make_scene
from hermesflow.data.worlds.language import KINDS
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import Scene, SceneObject
from hermesflow.stages.judge import agreement, measure, reconstruct, truth


@pytest.fixture(scope="module")
def world() -> list[tuple[str, Scene]]:
    generator = np.random.default_rng(3)
    return [(kind, make_scene(kind, generator)) for _ in range(100) for kind in KINDS]


@pytest.fixture(scope="module")
def images(world) -> np.ndarray:
    return np.stack([render(scene, image_size=48) for _, scene in world])


def ask(scene: Scene, question: str) -> str | None:
    return WORLD.answer(scene, Question(question, ("yes", "no"), "yes", "any"))


def things(*described: tuple) -> Scene:
    return Scene(tuple(SceneObject(*thing) for thing in described))


def test_every_real_render_is_read_exactly(world, images):
    assert read_images(images) == [scene for _, scene in world]
    assert read_images(images[0][None])[0] == world[0][1]


def test_reading_does_not_depend_on_the_batch(images):
    assert read_images(images[:50], batch=7) == read_images(images[:50])


def test_other_image_sizes_are_read_too(world):
    scenes = [scene for _, scene in world[:70]]
    assert read_images(np.stack([render(scene, image_size=96) for scene in scenes])) == scenes


@pytest.mark.parametrize("damage", ["blur", "noise", "cast"])
def test_slightly_damaged_images_are_read_as_the_originals(world, images, damage):
    generator, pixels = np.random.default_rng(0), images.astype(float)
    if damage == "blur":
        pixels = gaussian_filter(pixels, (0, 1, 1, 0))
    elif damage == "noise":
        pixels = pixels + generator.normal(0, 20, pixels.shape)
    else:
        pixels = pixels + generator.uniform(-25, 25, (len(pixels), 1, 1, 3))
    read = read_images(pixels.clip(0, 255).astype(np.uint8))
    assert np.mean([a == scene for a, (_, scene) in zip(read, world, strict=True)]) > 0.99


def test_specks_are_ignored():
    image = render(things(("circle", "red", "small", 0)), image_size=48)
    image[40:44, 40:44] = COLORS["blue"]
    assert read_images(image[None])[0] == things(("circle", "red", "small", 0))


def test_empty_image_has_no_objects():
    assert read_images(np.full((48, 48, 3), GROUND, dtype=np.uint8)[None])[0] == Scene(())


def test_unreadable_shape_and_mixed_color_are_none_but_the_object_counts():
    image = np.full((48, 48, 3), GROUND, dtype=np.uint8)
    image[2:22, 2:5] = COLORS["green"]  # a bar: no shape of the world
    assert read_images(image[None])[0] == things((None, "green", None, 0))
    image = render(things(("square", "red", "large", 0)), image_size=48)
    image[:12, :24][(image[:12, :24] != GROUND).any(-1)] = COLORS["blue"]
    scene = read_images(image[None])[0]
    assert scene == things(("square", None, "large", 0))
    assert WORLD.accepts(scene, "a square") and not WORLD.accepts(scene, "a red square")
    assert ask(scene, "how many objects ?") == "one" and ask(scene, "what color is the square ?") is None


def test_answers_on_real_scenes_are_those_of_the_captions(world):
    for kind, scene in world:
        for question in WORLD.questions_of(caption_of(scene, kind)):
            assert WORLD.answer(scene, question) == question.answer


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("is there a red circle ?", "yes"),
        ("is there a small circle ?", "no"),
        ("how many crosses ?", "two"),
        ("how many blue objects ?", "one"),
        ("how many triangles ?", "zero"),
        ("what color is the circle ?", "red"),
        ("what color is the triangle ?", None),
        ("what color are the crosses ?", None),
        ("what size is the cross ?", "small"),
        ("what shape is the red object ?", "circle"),
        ("is the red circle above the blue cross ?", "yes"),
        ("is the red circle above the green cross ?", "no"),
        ("is the red circle above the cross ?", None),
        ("where is the blue cross relative to the red circle ?", "below"),
        ("where is the green cross relative to the red circle ?", None),
        ("what color is the object left of the green cross ?", "blue"),
        ("what shape is the object above the red circle ?", None),
        ("is the red circle top left ?", "yes"),
        ("is the red circle bottom right ?", "no"),
    ],
)
def test_answers_follow_the_scene_not_the_choices(question, expected):
    scene = things(("circle", "red", "large", 0), ("cross", "blue", "small", 2), ("cross", "green", "small", 3))
    assert ask(scene, question) == expected


def test_unknown_wording_is_an_error():
    with pytest.raises(ValueError, match="not a question"):
        ask(Scene(()), "who painted this ?")


def test_captions_of_their_own_scene_are_accepted(world):
    assert all(WORLD.accepts(scene, caption_of(scene, kind)) for kind, scene in world)


@pytest.mark.parametrize(
    ("caption", "accepted"),
    [
        ("a red circle above a blue square", True),
        ("a blue square below a red circle", True),
        ("a blue square above a red circle", False),
        ("a red circle and a blue square", True),
        ("a blue circle and a red square", False),
        ("a red circle", False),
        ("a red circle and a blue square and a blue square", False),
        ("a small red circle and a blue square", False),
        ("a large red circle top left , a small blue square bottom left", True),
        ("a large red circle top right , a small blue square bottom left", False),
        ("a nice picture", False),
    ],
)
def test_acceptance_is_strict(caption, accepted):
    assert WORLD.accepts(things(("circle", "red", "large", 0), ("square", "blue", "small", 2)), caption) is accepted


def test_counts_must_be_exact():
    crosses = [("cross", "red", "small", cell) for cell in range(4)]
    assert WORLD.accepts(things(*crosses[:3]), "three red crosses")
    assert not WORLD.accepts(things(*crosses), "three red crosses") and not WORLD.accepts(
        things(*crosses[:2]), "three red crosses"
    )


def test_caption_f1_grades_meaning():
    reference = "a red circle above a blue square"
    same = WORLD.caption_facts_f1("a blue square below a red circle", reference)
    grades = [
        WORLD.caption_facts_f1(text, reference)
        for text in (
            "a red circle and a blue square",
            "a red circle above a blue circle",
            "a green circle above a yellow cross",
            "so nice",
        )
    ]
    assert same == 1.0 and grades == sorted(grades, reverse=True) and len(set(grades)) == 4 and grades[-1] == 0.0


def test_caption_f1_against_a_scene_prefers_what_is_true():
    scene = things(("circle", "red", "large", 0), ("square", "blue", "small", 2))
    right, wrong = (
        WORLD.caption_facts_f1(text, scene)
        for text in ("a red circle above a blue square", "a red circle left of a blue square")
    )
    assert 0 < wrong < right < 1
    assert WORLD.caption_facts_f1("a large red circle top left , a small blue square bottom left", scene) > right
    with pytest.raises(ValueError, match="reference"):
        WORLD.caption_facts_f1("a circle", "a nice picture")


def test_agreement_counts_gone_and_changed_objects():
    original = things(("circle", "red", "large", 0), ("square", "blue", "small", 2))
    changed = things(("circle", "blue", "large", 0))
    shares = agreement([original, original], [original, changed], WORLD.lexicon)
    assert shares == {"same scene": 0.5, "same cells": 0.5, "same shape": 0.75, "same color": 0.5, "same size": 0.75}


def test_measure_is_perfect_on_real_images_and_lower_on_wrong_ones(world):
    rows = [
        {
            "caption": caption_of(scene, kind),
            "kind": kind,
            "questions": [vars(q) for q in WORLD.questions_of(caption_of(scene, kind))],
        }
        for kind, scene in world[:70]
    ]
    scenes = [scene for _, scene in world[:70]]
    result = measure(scenes, [Scene(())] * 70, rows, WORLD)
    perfect = {"captions accepted": 1.0, "questions right": 1.0, "wrong captions rejected": 1.0}
    assert result["real images"]["all"] == {"images": 70, **perfect}
    assert set(result["reconstructions"]) == {"all", *KINDS}
    assert result["reconstructions"]["all"]["same scene"] == 0.0
    assert truth([Scene(())] * 70, rows, WORLD)["captions accepted"] == 0.0


def test_reconstruct_keeps_order_whatever_the_batch(images):
    from hermesflow.config.load import load_config
    from hermesflow.models.showo.codec import ShowOCodec
    from hermesflow.models.showo.magvit import MagVitV2

    codec = ShowOCodec(MagVitV2(load_config("config/smoke.yaml").image_tokenizer).eval(), 48)
    whole = reconstruct(codec, images[:6], batch=6)
    assert whole.shape == (6, 48, 48, 3) and whole.dtype == np.uint8
    pieces = reconstruct(codec, images[:6], batch=4).astype(int)
    assert abs(pieces - whole).max() <= 1
