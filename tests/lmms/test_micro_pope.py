"""The micro world's own POPE through the real command line: every answer is that of the checkpoint's own evaluation."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Image

from hermesflow.config.load import load_config
from hermesflow.core.files import Layout
from hermesflow.data.microworld.world import WORLD
from hermesflow.data.pairs import images_of, read_pairs
from hermesflow.evaluation.benchmarks.pope import SPLITS
from hermesflow.evaluation.lmms.results import figures_of
from hermesflow.evaluation.worlds import understanding
from hermesflow.models.backbone import new_model
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.selfplay.scoring import free_answers
from hermesflow.stages import data

from . import world

pytestmark = pytest.mark.lmms
MICRO = load_config(Path(__file__).parents[2] / "config" / "micro.yaml")
CONFIG = replace(
    MICRO,
    data=replace(MICRO.data, base_pairs=42, pairs=4, gap_pairs=3),
    evaluation=replace(MICRO.evaluation, understanding_images=12, geneval_prompts=1, dense_prompts=1),
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Rows of our own evaluation and of lmms-eval, and lmms-eval's figures."""
    home = tmp_path_factory.mktemp("pope")
    layout = Layout(home / "results")
    data.run(CONFIG, layout)
    pairs = read_pairs(layout.data("understanding"))
    items = [item for item in understanding.items_of(pairs, WORLD) if item.benchmark == "pope"]
    place = {key: i for i, key in enumerate(pairs["id"])}
    owners, questions = torch.tensor([place[item.id] for item in items]), [item.question for item in items]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = ShowOCodec(MagVitV2(CONFIG.image_tokenizer).eval(), CONFIG.data.image_size)
    seen = codec.see(images_of(pairs)).clone()  # no inference tensor, or there are no gradients
    model = taught(seen, owners, questions, [item.answer for item in items])
    said = free_answers(model, seen, owners, questions, max_answer_tokens=CONFIG.scoring.max_answer_tokens)
    own = understanding.grade(items, said)
    model.save(layout.checkpoint(0, "base") / "model")
    codec.save(layout.tokenizer)
    write_tasks(home / "tasks", own, dict(zip(pairs["id"], pairs.data.column("image").to_pylist(), strict=True)))
    folder = world.understood(CONFIG, layout, home, batch_size=4)
    return own, pd.read_parquet(folder / "rows.parquet"), figures_of(pd.read_parquet(folder / "units.parquet"))


def taught(seen, owners, questions, answers):
    """The micro config's new model after some steps on these questions: right about two thirds of them."""
    model = new_model(CONFIG, seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model.text_loss(seen, owners, questions, answers).backward()
        optimiser.step()
    return model.eval()


def write_tasks(folder, own, image_of):
    """POPE's three tasks with the micro world's questions, which have no words behind them."""
    features = dict.fromkeys(("id", "question_id", "question", "answer", "image_source", "category"), world.STRING)
    for name, task in SPLITS.items():
        rows = [
            {
                "id": str(i),
                "question_id": str(i),
                "question": row.question,
                "answer": row.answer,
                "image_source": row.id,
                "category": task,
                "image": image_of[row.id],
            }
            for i, row in enumerate(own[own["task"] == task].itertuples())
        ]
        shipped = f"pope/{name}.yaml"
        world.write_task(folder, name, shipped, task, rows, {**features, "image": Image()}, doc_to_text="question")


def test_every_answer_is_that_of_our_own_evaluation(both):
    own, rows, _ = both
    for name, task in SPLITS.items():
        theirs = rows[rows["task"] == name].sort_values("doc_id")["answer"]
        assert list(theirs) == list(own[own["task"] == task]["prediction"])
    assert set(own["prediction"]) == {"yes", "no"}


def test_the_figures_are_those_of_our_own_evaluation(both):
    own, _, figures = both
    for task, some in own.groupby("task"):
        assert figures[f"pope/{task}/accuracy"] == pytest.approx(some["right"].mean())
    assert 0 < own["right"].mean() < 1
