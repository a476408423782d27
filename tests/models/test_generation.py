from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.core.images import ImageForm
from hermesflow.data.microworld.captions import LEXICON, caption_of
from hermesflow.data.worlds.scenes import Scene, SceneObject
from hermesflow.evaluation.bootstrap import point_values
from hermesflow.evaluation.evaluated import Evaluated
from hermesflow.evaluation.metrics import GENEVAL_KINDS
from hermesflow.evaluation.worlds.generation import (
    Check,
    Request,
    credited,
    dense_checks,
    dense_table,
    dense_units,
    draw,
    fidelity_units,
    geneval_units,
)

RED = SceneObject("circle", "red", "large", 0)
BLUE = SceneObject("square", "blue", "small", 1)
CAPTION = "a large red circle top left , a small blue square top right"


def value(units, metric):
    own = units[units["metric"] == metric]
    return own["numerator"].sum() / own["denominator"].sum()


def test_dependency_rule_by_hand():
    tree = [
        Check("root", (), False),
        Check("child", (0,), True),
        Check("grandchild", (1,), True),
        Check("other", (), True),
    ]
    assert credited(tree) == [False, False, False, True]


def test_a_child_of_two_needs_both():
    tree = [Check("a", (), True), Check("b", (), False), Check("a above b", (0, 1), True)]
    assert credited(tree) == [True, False, False]


def test_dense_tree_of_a_right_image():
    assert caption_of(Scene((RED, BLUE)), "dense") == CAPTION
    checks = dense_checks(CAPTION, Scene((RED, BLUE)), LEXICON)
    assert [c.question for c in checks] == [
        "is there a circle", "is a circle red", "is a circle large", "is a circle top left",
        "is there a square", "is a square blue", "is a square small", "is a square top right",
        "is a red circle left of a blue square",
    ]  # fmt: skip
    assert [c.parents for c in checks] == [(), (0,), (0,), (0,), (), (4,), (4,), (4,), (0, 4)]
    assert all(credited(checks))


@pytest.mark.parametrize(
    ("seen", "score"),
    [
        ((RED,), 4 / 9),  # the square, its attributes and the relation are lost
        ((SceneObject("circle", "cyan", "large", 0), BLUE), 7 / 9),  # colour, and the relation of the RED circle
        ((SceneObject("circle", "red", "large", 2), BLUE), 7 / 9),  # place and relation
        ((), 0.0),
        ((SceneObject(None, "red", None, 0), BLUE), 4 / 9),  # an unreadable shape
    ],
)
def test_dense_scores_by_hand(seen, score):
    table = dense_table([Request("a", 0, CAPTION)], [Scene(seen)], LEXICON)
    assert value(dense_units(table), "dpg") == pytest.approx(score)


def test_dense_prompts_average_images_then_prompts():
    requests = [Request("a", 0, CAPTION), Request("a", 1, CAPTION), Request("b", 0, CAPTION), Request("b", 1, CAPTION)]
    scenes = [Scene((RED, BLUE)), Scene(()), Scene((RED, BLUE)), Scene((RED, BLUE))]
    units = dense_units(dense_table(requests, scenes, LEXICON))
    assert list(units["id"]) == ["a", "b"]
    assert list(units["numerator"] / units["denominator"]) == [0.5, 1.0]


def test_geneval_by_hand():
    images = pd.DataFrame(
        [(kind, f"{kind}-{p}", k, p <= i % 2) for i, kind in enumerate(GENEVAL_KINDS) for p in (0, 1) for k in (0, 1)]
        + [("dense", "dense-0", 0, False)],
        columns=["kind", "caption", "image", "accepted"],
    )
    values = point_values(Evaluated(geneval_units(images), np.zeros((0, 1)), np.zeros((0, 1))))
    assert values["geneval/single_object"] == 0.5 and values["geneval/two_objects"] == 1.0
    assert values["geneval/overall"] == pytest.approx(0.75)
    assert not any("dense" in name for name in values)


def test_overall_is_the_mean_of_kinds_however_many_prompts_they_have():
    images = pd.DataFrame(
        [
            (kind, f"{kind}-{p}", 0, kind == "counting")
            for kind in GENEVAL_KINDS
            for p in range(9 if kind == "counting" else 1)
        ],
        columns=["kind", "caption", "image", "accepted"],
    )
    values = point_values(Evaluated(geneval_units(images), np.zeros((0, 1)), np.zeros((0, 1))))
    assert values["geneval/overall"] == pytest.approx(1 / 6)


def test_image_text_score_is_the_mean():
    assert value(fidelity_units(["a", "b"], [30.0, 32.0]), "clip_score") == 31


class Drawer:
    """Stands in for a model: draws what its generator says."""

    naming = nullcontext
    generated = ImageForm("codes", (3,), "uint16")

    def generate_images(self, prompts, *, settings, generators):
        return torch.stack([torch.randint(1000, (3,), generator=g) for g in generators])


def test_an_image_does_not_depend_on_what_else_is_drawn():
    requests = [Request(f"p{i}", k, "a circle") for i in range(200) for k in (0, 1)]
    codes = draw(Drawer(), requests, settings=None, seed=0)
    assert codes.shape == (400, 3)
    assert torch.equal(draw(Drawer(), requests[303:305], settings=None, seed=0), codes[303:305])
    assert len(codes.unique(dim=0)) > 390
    assert not torch.equal(draw(Drawer(), requests[:2], settings=None, seed=1), codes[:2])
