"""The micro config's model and image tokenizer through stage `understand` and the real command line, on a local POPE.

A few steps here teach the model what to say about each of four pictures, so every figure is known beforehand.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.core.images import as_tensor
from hermesflow.evaluation.lmms.answering import Pictures
from hermesflow.evaluation.lmms.results import figures_of
from hermesflow.models.backbone import new_model
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2

from . import world
from .world import SHORT

pytestmark = pytest.mark.lmms
CONFIG = load_config(Path(__file__).parents[2] / "config" / "micro.yaml")
SAYS = {1: "yes", 2: "no", 3: "yes", 4: "no"}
"""What the model is taught about each picture."""
ASKED = {
    "pope_random": [(1, "yes"), (3, "yes"), (1, "no"), (4, "yes"), (2, "yes")],
    "pope_pop": [(1, "yes"), (2, "no")],
    "pope_adv": [(3, "no"), (4, "yes"), (2, "no")],
}
"""Picture and true answer of each question."""


def taught():
    """The micro config's new model after some steps on SAYS, and its image tokenizer as training begins with it."""
    model = new_model(CONFIG, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = ShowOCodec(MagVitV2(CONFIG.image_tokenizer).eval(), CONFIG.data.image_size)
    pictures = Pictures(codec)
    seen = as_tensor(np.stack([pictures.seen[digest] for digest in pictures.add(map(world.picture, SAYS))]))
    prompts = [f"Is there a dog 0 in the image?{SHORT}"] * len(SAYS)  # numbers are no words of the micro world
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(300):
        loss = model.text_loss(seen, torch.arange(len(SAYS)), prompts, list(SAYS.values()))
        if loss < 0.05:
            return model, codec
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError(f"300 steps did not teach the answers: {loss}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("micro")
    layout = Layout(home / "results" / CONFIG.name)
    model, codec = taught()
    model.save(layout.checkpoint(0, "base") / "model")
    codec.save(layout.tokenizer)
    for name, rows in ASKED.items():
        world.pope(home / "tasks", name, [(key, *row) for key, row in enumerate(rows)])
    return world.understood(CONFIG, layout, home, batch_size=2)


@pytest.mark.parametrize("name", ASKED)
def test_answers_are_those_it_was_taught(folder, name):
    rows = pd.read_parquet(folder / "rows.parquet")
    own = rows[rows["task"] == name].sort_values("doc_id")
    assert list(own["answer"]) == [SAYS[number] for number, _ in ASKED[name]]
    assert list(own["target"]) == [truth for _, truth in ASKED[name]]


def test_figures_by_hand(folder):
    """Of random's answers two are true and one false positives, two false negatives."""
    figures = figures_of(pd.read_parquet(folder / "units.parquet"))
    expected = {"accuracy": 2 / 5, "precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "yes_ratio": 3 / 5}
    assert {name: figures[f"pope/random/{name}"] for name in expected} == pytest.approx(expected)
    assert figures["pope/accuracy"] == pytest.approx((2 / 5 + 2 / 2 + 1 / 3) / 3)
