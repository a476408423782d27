"""The pictures world: what is drawn is what is said, what is asked and what the judge reads."""

import hashlib
import io
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from hermesflow.config.digests import modules_behind
from hermesflow.config.load import load_config
from hermesflow.core.errors import DataError
from hermesflow.data import geneval
from hermesflow.data.pictures.captions import LEXICON, caption_of
from hermesflow.data.pictures.judge import read_images
from hermesflow.data.pictures.scenes import GROUNDS, ground_of, render
from hermesflow.data.pictures.sprites import PICTURES, colors_of
from hermesflow.data.pictures.world import WORLD, bucket_of, geneval_prompts, make_scene
from hermesflow.data.worlds.language import KINDS, article, wrong_captions
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.scenes import RELATIONS, Scene, SceneObject, relation_of
from hermesflow.data.worlds.world import BUCKETS, world_of
from hermesflow.models import codec_training
from hermesflow.stages.judge import measure

CONFIG = load_config("config/pictures.yaml").data


def scene_of(kind, seed):
    return make_scene(kind, np.random.default_rng(seed))


SCENES = st.tuples(st.sampled_from(KINDS), st.integers(0, 2**32)).map(lambda drawn: (drawn[0], scene_of(*drawn)))


@pytest.fixture(scope="module")
def many():
    return [(kind, scene_of(kind, seed)) for seed in range(60) for kind in KINDS]


@pytest.fixture(scope="module")
def images(many):
    return np.stack([render(scene, image_size=64) for _, scene in many])


@given(SCENES, st.sampled_from([64, 96]))
def test_a_rendered_scene_is_read_back(drawn, size):
    image = render(drawn[1], image_size=size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert read_images(image[None]) == [drawn[1]]


@given(SCENES)
def test_the_judge_answers_every_question_as_the_caption_does(drawn):
    kind, scene = drawn
    caption = caption_of(scene, kind)
    (read,) = read_images(render(scene, image_size=64)[None])
    assert WORLD.accepts(read, caption)
    questions = WORLD.questions_of(caption)
    assert 5 <= len(questions) <= 11 and len(set(questions)) == len(questions)
    for question in questions:
        assert WORLD.answer(read, question) == question.answer and question.answer in question.choices
    assert any(q.kind == "count" and q.question == "how many objects ?" for q in questions)
    assert any(q.kind == "existence" and q.answer == "no" for q in questions)
    assert any(q.kind == "ground" for q in questions) == (WORLD.parse_caption(caption).ground is not None)


@given(SCENES)
def test_a_caption_says_what_is_there(drawn):
    kind, scene = drawn
    facts = WORLD.parse_caption(caption_of(scene, kind))
    named = [mention for mention in facts.mentions for _ in range(mention.count)]
    assert sorted(m.noun for m in named) == sorted(t.noun for t in scene.objects)
    assert facts.ground in (None, scene.ground) and len(facts.relations) == (kind == "position")
    assert WORLD.caption_facts_f1(caption_of(scene, kind), scene) > 0
    colored = kind in ("colors", "color_attribution", "dense")
    assert all((mention.color is not None) == colored for mention in named)
    for thing in scene.objects:
        assert thing.color in (colors_of(thing.noun) if colored else (PICTURES[thing.noun][1],))


def test_captions_with_one_wrong_fact_are_rejected(many, images):
    wrong = 0
    for (kind, scene), read in zip(many, read_images(images), strict=True):
        caption = caption_of(scene, kind)
        others = wrong_captions(caption, LEXICON)
        assert others == wrong_captions(caption, LEXICON) and caption not in others
        assert len(others) >= len(scene.objects) if kind != "counting" else len(others) == 2
        for other in others:
            assert WORLD.parse_caption(other) is not None and not WORLD.accepts(read, other), other
        wrong += len(others)
    assert wrong > 1000


def test_what_an_image_shows_decides_its_caption(many):
    kinds = {}
    for kind, scene in many:
        things = scene.objects
        alike, tinted = len({t.noun for t in things}) < len(things), things[0].color != PICTURES[things[0].noun][1]
        aligned = len(things) == 2 and relation_of(things[0].cell, things[1].cell) is not None
        kinds.setdefault((len(things), alike, tinted, aligned), set()).add(kind)
    assert all(len(found) == 1 for found in kinds.values()), kinds
    said = [WORLD.parse_caption(caption_of(scene, kind)) for kind, scene in many]
    assert {relation for facts in said for _, relation, _ in facts.relations} == set(RELATIONS)


def jpeg(images, quality):
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file, format="JPEG", quality=quality)
    return np.stack([np.asarray(Image.open(file)) for file in files])


@pytest.mark.parametrize(
    ("damage", "share"), [("blur", 0.93), ("noise", 0.98), ("cast", 0.98), ("jpeg 30", 0.97), ("jpeg 10", 0.93)]
)
def test_damaged_images_are_read_as_the_originals(many, images, damage, share):
    generator, pixels = np.random.default_rng(0), images.astype(float)
    if damage == "blur":
        pixels = gaussian_filter(pixels, (0, 1.5, 1.5, 0))
    elif damage == "noise":
        pixels = pixels + generator.normal(0, 25, pixels.shape)
    elif damage == "cast":
        pixels = pixels + generator.uniform(-8, 8, (len(pixels), 1, 1, 3))
    else:
        pixels = jpeg(images, int(damage.split()[1]))
    read = read_images(pixels.clip(0, 255).round().astype(np.uint8))
    assert np.mean([a == scene for a, (_, scene) in zip(read, many, strict=True)]) > share


def test_nothing_noise_specks_and_halves():
    blank = np.stack([ground_of(name, 64).round().astype(np.uint8) for name in GROUNDS])
    assert read_images(blank) == [Scene((), name) for name in GROUNDS]
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    assert {(t.noun, t.color) for scene in read_images(noise) for t in scene.objects} == {(None, None)}
    speck = blank[:1].copy()
    speck[0, 40:46, 40:46] = 0
    assert read_images(speck) == [Scene((), "snow")]
    chimera = render(Scene((SceneObject("giraffe", None, None, 0),), "sky"), image_size=64)
    chimera[:16, :32] = render(Scene((SceneObject("tv", None, None, 0),), "sky"), image_size=64)[16:32, :32]
    (scene,) = read_images(chimera[None])
    assert scene.objects == (SceneObject(None, None, None, 0),) and not WORLD.accepts(scene, "a giraffe in the sky")
    assert WORLD.answer(scene, Question("how many objects ?", (), "", "count")) == "one"


def test_pictures_in_their_own_colour_are_not_tinted_with_it():
    apple = Scene((SceneObject("apple", None, None, 1),), "grass")
    (read,) = read_images(render(apple, image_size=64)[None])
    assert read.objects[0].color == "red" and "red" not in colors_of("apple")
    assert WORLD.accepts(read, "a red apple") and WORLD.accepts(read, "an apple")
    assert not WORLD.accepts(read, "a green apple") and not WORLD.accepts(read, "an apple on sand")


def test_splits_share_no_content_and_hold_none_of_genevals(many):
    asked = {WORLD.parse_caption(caption).content for _, caption in geneval_prompts()}
    contents = {}
    for split, bucket in BUCKETS.items():
        rows = list(WORLD.make_pairs(split, 210, config=CONFIG))
        assert {row["kind"] for row in rows} == set(KINDS)
        for row in rows:
            assert bucket_of(row["caption"]) == bucket
            contents.setdefault(bucket, set()).add(WORLD.parse_caption(row["caption"]).content)
    for first, second in itertools.combinations([*contents.values(), asked], 2):
        assert not first & second
    assert bucket_of("a bird above a frog") == bucket_of("a frog below a bird")
    assert bucket_of("a frog and a cake") == bucket_of("a cake and a frog")
    assert bucket_of("a cow and a horse") == bucket_of("a horse and a cow") == "geneval"


def test_pairs_are_seeded_and_a_longer_split_begins_with_the_shorter():
    short, long = (list(WORLD.make_pairs("gap", count, config=CONFIG)) for count in (14, 28))
    assert long[:14] == short and len({row["id"] for row in long}) == 28


def test_vocabulary_covers_captions_questions_and_answers():
    known = set(WORLD.vocabulary())
    for row in WORLD.make_pairs("base", 280, config=CONFIG):
        said = [row["caption"], *(text for q in row["questions"] for text in (q["question"], *q["choices"]))]
        assert set(" ".join(said).split()) <= known
        assert len(row["caption"].split()) <= 21


def test_genevals_prompts_are_drawn_as_its_authors_drew_them():
    """Counts of evaluation_metadata.jsonl; the digest was made once and holds numpy to its stream."""
    prompts = geneval.prompts()
    assert len(prompts) == 553
    assert Counter(p.kind for p in prompts) == dict(zip(geneval.KINDS, (80, 99, 80, 94, 100, 100), strict=True))
    digest = hashlib.sha256(repr([(p.kind, p.objects, p.colors, p.count, p.relation) for p in prompts]).encode())
    assert digest.hexdigest().startswith("fbc63c95408b5601")


def test_179_of_genevals_prompts_can_be_asked():
    asked = geneval_prompts()
    assert Counter(kind for kind, _ in asked) == dict(zip(geneval.KINDS, (38, 15, 40, 43, 26, 17), strict=True))
    assert len(asked) == len({caption for _, caption in asked}) == 179
    assert all(WORLD.parse_caption(caption) for _, caption in asked)
    some = {
        "a phone",
        "a cow and a horse",
        "two sheep",
        "three sandwiches",
        "a purple carrot",
        "a laptop left of a cow",
    }
    assert some - {caption for _, caption in asked} == {"three sandwiches"}
    assert WORLD.prompts() == asked and world_of(CONFIG) is WORLD


def test_every_look_stands_off_every_ground():
    for ground in GROUNDS:
        looks = [(noun, color) for noun in PICTURES for color in (None, *colors_of(noun))]
        scenes = [Scene((SceneObject(noun, color or PICTURES[noun][1], None, 2),), ground) for noun, color in looks]
        assert read_images(np.stack([render(scene, image_size=64) for scene in scenes])) == scenes


def test_render_refuses_a_size_that_the_judge_cannot_read():
    with pytest.raises(DataError, match=r"data\.image_size.* multiples of 32 .*48"):
        render(Scene((), "snow"), image_size=48)


def test_articles():
    assert [article(word) for word in ("apple", "orange", "bus")] == ["an", "an", "a"]


def test_the_world_in_the_config_is_the_code_behind_a_step():
    names = {
        name: {module for module, _ in modules_behind(stage, load_config(f"config/{name}.yaml"))}
        for name, stage in (("pictures", "judge"), ("smoke", "judge"))
    }
    assert {"hermesflow.data.pictures.judge", "hermesflow.data.pictures.sprites"} <= names["pictures"]
    assert not any(module.startswith("hermesflow.data.microworld") for module in names["pictures"])
    assert not any(module.startswith("hermesflow.data.pictures") for module in names["smoke"])
    assert "hermesflow.data.microworld.judge" in names["smoke"]


def test_the_judge_s_figures_are_those_of_the_world(many):
    rows = [
        {"caption": caption_of(scene, kind), "kind": kind, "questions": []} | {"id": str(i)}
        for i, (kind, scene) in enumerate(many[:70])
    ]
    scenes = [scene for _, scene in many[:70]]
    nothing = [Scene((), scene.ground) for scene in scenes]
    found = measure(scenes, nothing, rows, WORLD)["reconstructions"]["all"]
    assert found["same ground"] == 1.0 and found["same thing"] == found["same color"] == found["same scene"] == 0.0
    assert "same size" not in found and found["wrong captions rejected"] == 1.0


def test_a_pixel_is_background_where_it_is_its_ground():
    """Most frequent colours of graded and striped grounds are rare."""
    scenes = [Scene((SceneObject(noun, None, None, 0),), ground) for ground in GROUNDS for noun in PICTURES]
    images = np.stack([render(scene, image_size=64) for scene in scenes])
    tiles, counts = codec_training.different_tiles(images, 32)
    blank = {ground_of(g, 64).round().astype(np.uint8)[y : y + 32, :32].tobytes() for g in GROUNDS for y in (0, 32)}
    assert len(blank) == 7 == load_config("config/pictures.yaml").tokenizer_training.grounds
    assert {tiles[i].tobytes() for i in np.argsort(-counts, kind="stable")[:7]} == blank
    background = codec_training._background(tiles, counts, 7)
    shares = background.mean((1, 2))
    assert all((share == 1) == (tile.tobytes() in blank) for tile, share in zip(tiles, shares, strict=True))
    assert background[:, 0, 0].all() and shares.min() > 0.2 and np.median(shares) < 0.7
