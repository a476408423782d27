"""Scenes, captions, questions and splits of the micro world."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from hermesflow.config.load import load_config
from hermesflow.config.sections import Data
from hermesflow.data.microworld.captions import caption_of
from hermesflow.data.microworld.scenes import COLORS, GROUND, SHAPES, SIZES, mask_of, render
from hermesflow.data.microworld.world import WORLD, bucket_of, make_scene
from hermesflow.data.worlds.language import KINDS, Facts, Mention
from hermesflow.data.worlds.scenes import Scene, SceneObject, relation_of
from hermesflow.data.worlds.world import BUCKETS

KINDS_ASKED = ("existence", "color", "shape", "size", "count", "relation")


@pytest.fixture(scope="module")
def config() -> Data:
    return load_config("config/micro.yaml").data


@pytest.fixture(scope="module")
def base_rows(config) -> list[dict]:
    return list(WORLD.make_pairs("base", 1400, config=config))


@pytest.fixture(scope="module")
def pair_rows(config):
    return list(WORLD.make_pairs("pairs", 700, config=config))


def scenes_of(kind: str, count: int = 150) -> list[Scene]:
    generator = np.random.default_rng(5)
    return [make_scene(kind, generator) for _ in range(count)]


def test_render_paints_every_object_in_its_cell_and_nothing_else():
    scene = Scene((SceneObject("square", "red", "small", 1), SceneObject("cross", "blue", "large", 2)))
    image = render(scene, image_size=48)
    assert image.dtype == np.uint8 and image.shape == (48, 48, 3)
    assert tuple(image[12, 36]) == COLORS["red"] and tuple(image[36, 12]) == COLORS["blue"]
    colored = (image != GROUND).any(-1)
    assert not colored[:24, :24].any() and not colored[24:, 24:].any()
    assert colored[:24, 24:].sum() == 14 * 14


def test_objects_never_touch_the_edge_of_their_cell():
    for shape, size in itertools.product(SHAPES, SIZES):
        mask = mask_of(shape, size, 24)
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_templates_and_colors_are_well_separated():
    masks = [mask_of(shape, size, 24) for shape, size in itertools.product(SHAPES, SIZES)]
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in itertools.combinations(masks, 2)]
    assert max(overlaps) < 0.83
    palette = np.array([*COLORS.values(), GROUND], dtype=float)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(palette, 2)]
    assert min(distances) > 95


def test_render_refuses_an_odd_size():
    with pytest.raises(ValueError, match="odd"):
        render(Scene(()), image_size=47)


@pytest.mark.parametrize("kind", KINDS)
def test_scene_depends_on_the_generator_alone(kind):
    first, second = scenes_of(kind), scenes_of(kind)
    assert first == second and len(set(first)) > 10


def test_what_an_image_shows_decides_its_caption():
    """Number, sameness, colour and alignment of the objects tell the kind, and the kind and the scene the caption."""
    kinds_by_look: dict[tuple, set[str]] = {}
    for kind in KINDS:
        for scene in scenes_of(kind, 400):
            number, looks = len(scene.objects), len({(t.noun, t.color) for t in scene.objects})
            plain = looks == number and {t.color for t in scene.objects} == {"black"}
            pair = number == looks == 2 and not plain
            aligned = pair and relation_of(*(t.cell for t in scene.objects)) is not None
            kinds_by_look.setdefault((number, looks, plain, aligned), set()).add(kind)
    assert all(len(kinds) == 1 for kinds in kinds_by_look.values()), kinds_by_look


@pytest.mark.parametrize(
    ("scene", "kind", "caption"),
    [
        ([("circle", "black", "large", 3)], "single_object", "a circle"),
        ([("circle", "black", "small", 0)], "single_object", "a small circle"),
        ([("circle", "orange", "large", 0)], "colors", "an orange circle"),
        ([("cross", "red", "small", cell) for cell in (0, 1, 3)], "counting", "three red crosses"),
        (
            [("square", "blue", "small", 0), ("circle", "cyan", "large", 2)],
            "position",
            "a blue square above a cyan circle",
        ),
        (
            [("square", "blue", "small", 2), ("circle", "cyan", "large", 3)],
            "position",
            "a blue square left of a cyan circle",
        ),
        (
            [("circle", "red", "large", 0), ("square", "blue", "small", 3)],
            "dense",
            "a large red circle top left , a small blue square bottom right",
        ),
    ],
)
def test_captions_read_as_designed(scene, kind, caption):
    assert caption_of(Scene(tuple(SceneObject(*thing) for thing in scene)), kind) == caption


@pytest.mark.parametrize("kind", KINDS)
def test_parsing_a_caption_gives_back_what_it_says(kind):
    for scene in scenes_of(kind):
        facts = WORLD.parse_caption(caption_of(scene, kind))
        assert facts is not None
        named = [mention for mention in facts.mentions for _ in range(mention.count)]
        assert [m.noun for m in named] == [t.noun for t in scene.objects]
        for mention, thing in zip(named, scene.objects, strict=True):
            assert mention.matches(thing)
        assert len(facts.relations) == (kind == "position")


def test_parsing_is_lenient_with_free_text_and_strict_with_unknown_words():
    circle, square = Mention(1, "circle", "red"), Mention(1, "square", None, "small")
    assert WORLD.parse_caption("Red circle, a small square.") == Facts((circle, square), ())
    assert WORLD.parse_caption("a red circle below the small square") == Facts((circle, square), ((0, "below", 1),))
    for text in ("", "a red", "a red dog", "circle circle", "a circle and", "above a circle", "top left"):
        assert WORLD.parse_caption(text) is None, text


def test_questions_are_five_to_ten_with_the_answer_among_few_choices(pair_rows):
    for row in pair_rows:
        questions = row["questions"]
        assert 5 <= len(questions) <= 10
        assert len({q["question"] for q in questions}) == len(questions)
        for question in questions:
            assert question["kind"] in KINDS_ASKED and " " not in question["answer"]
            assert 2 <= len(question["choices"]) <= 4 and len(set(question["choices"])) == len(question["choices"])
            assert question["answer"] in question["choices"]
            assert len(question["question"].split()) <= 11


def test_every_question_kind_is_asked_and_yes_is_as_frequent_as_no(base_rows):
    answers = Counter((q["kind"], q["answer"]) for row in base_rows for q in row["questions"])
    kinds = Counter(kind for kind, _ in answers.elements())
    assert set(kinds) == set(KINDS_ASKED) and min(kinds.values()) > 0.03 * kinds.total()
    assert answers["existence", "yes"] == answers["existence", "no"]
    assert 0.8 < answers["relation", "yes"] / answers["relation", "no"] < 1.25
    assert {answer for kind, answer in answers if kind == "count"} == {"one", "two", "three", "four"}
    assert answers["size", "large"] > 0.15 * (answers["size", "large"] + answers["size", "small"])


def test_every_pair_has_a_negative_that_shares_color_or_shape_with_a_named_object(pair_rows):
    for row in pair_rows:
        facts = WORLD.parse_caption(row["caption"])
        assert facts is not None
        hard = 0
        for question in row["questions"]:
            if question["kind"] == "existence" and question["answer"] == "no" and "object" not in question["question"]:
                asked = WORLD.parse_caption(question["question"].removeprefix("is there ").removesuffix(" ?"))
                assert asked is not None
                (absent,) = asked.mentions
                assert all((m.noun, m.color) != (absent.noun, absent.color) for m in facts.mentions)
                hard += any(m.noun == absent.noun or m.color == absent.color for m in facts.mentions)
        assert hard


def test_an_object_too_many_is_noticed():
    """A policy paid by its answers draws too much where only one question in ten minds (docs/decisions/0004)."""
    generator = np.random.default_rng(3)
    noticed = []
    for kind in ("single_object", "two_objects", "colors", "position", "color_attribution"):
        for _ in range(40):
            scene = make_scene(kind, generator)
            free = [cell for cell in range(4) if cell not in {t.cell for t in scene.objects}]
            twin = scene.objects[0]
            more = Scene((*scene.objects, SceneObject(twin.noun, twin.color, twin.size, free[0])))
            asked = WORLD.questions_of(caption_of(scene, kind))
            noticed.append(sum(WORLD.answer(more, question) != question.answer for question in asked))
            assert all(WORLD.answer(scene, question) == question.answer for question in asked)
    assert min(noticed) >= 1 and np.mean(noticed) > 1.5


def test_base_hears_ever_new_questions_about_one_caption(base_rows):
    asked = {}
    for row in base_rows:
        asked.setdefault(row["caption"], set()).add(tuple(q["question"] for q in row["questions"]))
        answers = Counter(q["answer"] for q in row["questions"] if q["kind"] == "existence")
        assert answers["yes"] == answers["no"] == 6
    repeated = [sets for caption, sets in asked.items() if len(caption.split()) > 5]
    assert len(repeated) > 50 and sum(len(sets) for sets in repeated) > len(repeated)


def test_questions_come_from_the_caption_alone():
    assert WORLD.questions_of("a red circle above a blue square") == WORLD.questions_of(
        "a red circle above a blue square"
    )
    with pytest.raises(ValueError, match="not a caption"):
        WORLD.questions_of("a dog on a lawn")


def test_vocabulary_covers_captions_questions_and_answers(base_rows):
    known = set(WORLD.vocabulary())
    said = {word for row in base_rows for word in row["caption"].split()}
    for row in base_rows:
        for question in row["questions"]:
            said |= set(" ".join([question["question"], question["answer"], *question["choices"]]).split())
    assert said <= known and {"describe", "the", "image"} <= known
    assert WORLD.vocabulary() == sorted(known)


def test_splits_share_no_caption_and_every_kind_is_in_every_split(config):
    captions = {split: {} for split in BUCKETS}
    for split in BUCKETS:
        for row in WORLD.make_pairs(split, 210, config=config):
            captions[split].setdefault(row["kind"], set()).add(row["caption"])
            assert bucket_of(row["caption"]) == BUCKETS[split]
    assert all(set(kinds) == set(KINDS) for kinds in captions.values())
    merged = {}
    for split, kinds in captions.items():
        merged.setdefault(BUCKETS[split], set()).update(*kinds.values())
    for first, second in itertools.combinations(merged.values(), 2):
        assert not first & second


def test_pairs_are_seeded_and_a_longer_split_begins_with_the_shorter(config):
    short, long = (list(WORLD.make_pairs("gap", count, config=config)) for count in (14, 28))
    assert long[:14] == short
    assert len({row["id"] for row in long}) == 28
    base, pairs = (list(WORLD.make_pairs(split, 70, config=config)) for split in ("base", "pairs"))
    assert [row["image"] for row in base] != [row["image"] for row in pairs]


def test_prompts_do_not_repeat_before_the_captions_of_their_kind_are_used_up(config):
    rows = list(WORLD.make_pairs("prompts", 12, config=config, kinds=("counting",)))
    assert len({row["caption"] for row in rows}) == 12
