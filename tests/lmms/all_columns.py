"""A tiny checkpoint and tasks of every column, whose right answers are set from what it says."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hermesflow.evaluation.benchmarks.pope import read_answer
from hermesflow.evaluation.lmms.running import Evaluation, evaluate
from hermesflow.evaluation.metrics import MME_FULL
from hermesflow.evaluation.registry import lmms_benchmarks

from . import world
from .world import SHORT

OTHER = {"yes": "no", "no": "yes"}
NOBODY = "zebra"
"""What no answer is."""


def write_pope(folder, oracle):
    """random: 3 of 5 right; popular: both right; adversarial: both wrong."""
    for name, shown, right in (
        ("pope_random", (1, 1, 2, 2, 3), (True, True, True, False, False)),
        ("pope_pop", (1, 2), (True, True)),
        ("pope_adv", (1, 2), (False, False)),
    ):
        said = [
            read_answer(oracle.says(number, f"Is there a dog {key} in the image?{SHORT}", 128))
            for key, number in enumerate(shown)
        ]
        truth = [one if good else OTHER[one] for one, good in zip(said, right, strict=True)]
        world.pope(folder, name, list(zip(range(len(shown)), shown, truth, strict=True)))


def write_mme(folder, oracle):
    """Both questions right but for `count` (one right) and all of cognition but code_reasoning (both wrong)."""
    rows = []
    for category in (*MME_FULL["perception"], *MME_FULL["cognition"]):
        number, said = next(
            (number, said)
            for number in range(100)
            if set(said := [first_word(oracle.says(number, f"Is it red {len(rows) + i}?{SHORT}")) for i in (0, 1)])
            <= OTHER.keys()
        )
        wrong = {"count": (1,)}.get(category, ())
        if category in MME_FULL["cognition"] and category != "code_reasoning":
            wrong = (0, 1)
        rows += [(category, number, (OTHER[one] if i in wrong else one).title()) for i, one in enumerate(said)]
    world.mme(folder, rows)


def first_word(text):
    return text.lower().replace(".", "").split()[0] if text else ""


def write_flickr(folder, oracle):
    """Pictures and references: one caption is the reference's copy, the others share no word with theirs.

    The first, which shares none, is no test image of Karpathy's.
    """
    question = "Provide a one-sentence caption for the provided image."
    number = next(n for n in range(1, 100) if len(set(oracle.says(n, question, 64).split())) >= 2)
    said = oracle.says(number, question, 64)
    assert len(said.split()) > 4
    rows = [(201, ["tree house road car bus"]), (number, [said]), (200, ["zebra horse cow sheep bird"])]
    world.flickr(folder, rows)
    images = [{"filename": f"{1000 + n}.jpg", "split": "train" if n == 201 else "test"} for n, _ in rows]
    (folder / "splits.json").write_text(json.dumps({"images": images}))
    return rows


def write_rest(folder, oracle):
    said = {key: oracle.says(key, f"What is {key}?{SHORT}") for key in (1, 2)}
    assert all(said.values())
    world.vqav2(folder, [(1, 1, [said[1]] * 2 + [NOBODY] * 8), (2, 2, [said[2]] * 4 + [NOBODY] * 6), (3, 3, None)])
    said = {key: oracle.says(key, f"What is g{key}?{SHORT}") for key in (1, 2)}
    world.gqa(folder, [("g1", 1, said[1].upper() + "!"), ("g2", 2, NOBODY)])
    asked = "<image 1> <image 2> What is it?\n\nAnswer the question using a single word or phrase."
    open_ = oracle.says(4, asked, 128).rstrip(".")  # MMMU's parser strips what an answer ends with, but not the truth
    world.mmmu(
        folder,
        [
            ("validation_Art_1", [1], "multiple-choice", ["red", "dog"], "Z"),
            ("validation_Math_2", [4, 5], "open", [], open_),
        ],
    )


@dataclass(frozen=True)
class SmallWorld:
    """A checkpoint, tasks of all columns, and what the checkpoint says about them."""

    root: Path
    """Folder of model, tokenizer and tasks."""
    oracle: world.Oracle
    captions: list[tuple[int, list[str]]]
    """Picture and references of Flickr30k's records."""

    def evaluated(self):
        """Start lmms-eval once on all tasks but Flickr30k's, whose Java takes long; the folder of its files."""
        tasks = [task for one in lmms_benchmarks() if one.name != "flickr30k" for task in one.tasks]
        evaluation = Evaluation(
            model=self.root / "model",
            tokenizer=self.root / "tokenizer",
            tasks=[f"{task}_local" for task in tasks],
            batch_size=2,
            include=self.root / "tasks",
        )
        own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self.root / "cache")}
        evaluate(evaluation, self.root / "out", python=Path(sys.executable), environment={**os.environ, **own})
        return self.root / "out"


def written(root):
    """The checkpoint and the tasks."""
    world.checkpoint(root)
    oracle = world.Oracle(root)
    for write in (write_pope, write_mme, write_rest):
        write(root / "tasks", oracle)
    return SmallWorld(root, oracle, write_flickr(root / "tasks", oracle))
