"""The real command line on a tiny checkpoint and every column, whose right answers are set from what it says."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hermesflow.evaluation.statistics import MME_FULL
from hermesflow.lmms import karpathy
from hermesflow.lmms.answering import pope_reading
from hermesflow.lmms.running import BENCHMARKS, Evaluation, evaluate

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
            pope_reading(oracle.says(number, f"Is there a dog {key} in the image?{SHORT}", 128))
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
    """The first caption is copied from the reference, the others share no word with theirs."""
    question = "Provide a one-sentence caption for the provided image."
    number = next(n for n in range(1, 100) if len(set(oracle.says(n, question, 64).split())) >= 2)
    said = oracle.says(number, question, 64)
    assert len(said.split()) > 4
    world.flickr(folder, [(number, [said]), (200, ["zebra horse cow sheep bird"]), (201, ["tree house road car bus"])])
    images = [{"filename": f"{1000 + n}.jpg", "split": "train" if n == 201 else "test"} for n in (number, 200, 201)]
    (folder / "splits.json").write_text(json.dumps({"images": images}))


def write_rest(folder, oracle):
    said = {key: oracle.says(key, f"What is {key}?{SHORT}") for key in (1, 2)}
    assert all(said.values())
    world.vqav2(folder, [(1, 1, [said[1]] * 2 + [NOBODY] * 8), (2, 2, [said[2]] * 4 + [NOBODY] * 6), (3, 3, None)])
    said = {key: oracle.says(key, f"What is g{key}?{SHORT}") for key in (1, 2)}
    world.gqa(folder, [("g1", 1, said[1].upper() + "!"), ("g2", 2, NOBODY)])
    asked = "<image 1> <image 2> What is it?\n\nAnswer the question using a single word or phrase."
    open_ = oracle.says(4, asked, 128)
    world.mmmu(
        folder,
        [
            ("validation_Art_1", [1], "multiple-choice", ["red", "dog"], "Z"),
            ("validation_Math_2", [4, 5], "open", [], open_),
        ],
    )
    choices = ["red", "two dog", "3"]
    nats = oracle.nats(1, "What?", choices)
    likeliest, least = nats.index(max(nats)), nats.index(min(nats))
    world.choice(folder, [(1, "What?", choices, likeliest), (1, "What?", choices, least)])


@dataclass(frozen=True)
class AllColumns:
    """One start of lmms-eval on the tasks of all columns, and on one by likelihood."""

    root: Path
    """Folder of model, tokenizer, tasks and results."""
    oracle: world.Oracle
    evaluation: Evaluation
    environment: dict[str, str]
    """Nothing asks the hub, and what `datasets` makes lies in `root`."""

    @property
    def out(self):
        """lmms-eval's files."""
        return self.root / "out"


def evaluated(root):
    """The checkpoint, the tasks and what the command line leaves of them."""
    tasks = root / "tasks"
    world.checkpoint(root)
    oracle = world.Oracle(root)
    for write in (write_pope, write_mme, write_flickr, write_rest):
        write(tasks, oracle)
    evaluation = Evaluation(
        model=root / "model",
        tokenizer=root / "tokenizer",
        tasks=[*(f"{task}_local" for some in BENCHMARKS.values() for task in some), "choice_local"],
        batch_size=2,
        include=tasks,
    )
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "cache"), karpathy.SPLITS: str(tasks / "splits.json")}
    made = AllColumns(root, oracle, evaluation, {**os.environ, **own})
    evaluate(evaluation, made.out, python=Path(sys.executable), environment=made.environment)
    return made
