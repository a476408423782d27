"""GenEval 2: composed prompts, a question on each of their parts, and Soft-TIFA over a VQA model's probabilities.

A question's figure is the probability that the model's answer begins with the right word. An image's are their
arithmetic mean (AM, right for single parts) and their geometric mean (GM, right for the whole prompt); the benchmark's
are means over the prompts. Skills are means over questions, atomicities means of GM over prompts, as the released
analysis prints them, times 100 there.

The data is licensed for non-commercial use alone, so it is not shipped, and the licence is printed when it is read.
The model is in `graders.answer_probability`; docs/geneval2.md has what differs from the released evaluation.

Source: Kamath et al. 2025 (GenEval 2, arXiv 2512.16853), and evaluation.py of its repository.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hermesflow.config.sections import Positive, Source, section
from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmark import Column, Export, ExtraTable, ImageBenchmark, Plan
from hermesflow.evaluation.prompts import Prompts, read_json_lines

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from hermesflow.core.files import Layout
    from hermesflow.evaluation.grading import Graded, Job

POOL = "geneval2"
TABLE_COLUMNS = ("prompt", "image", "caption", "atoms", "question", "answer", "skill", "probability")
TERMS = "CC BY-NC 4.0, for non-commercial use alone"
LICENCE = (
    "GenEval 2 (https://github.com/facebookresearch/GenEval2): its prompts and questions are licensed under CC BY-NC "
    "4.0 (https://creativecommons.org/licenses/by-nc/4.0/), for non-commercial use alone."
)
SKILLS = ("object", "attribute", "count", "position", "verb")
_COUNTING = "How many"  # how questions begin whose answer is a number
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ROUNDING = 1e-6  # a sum of float32 probabilities may exceed 1 by less


@dataclass(frozen=True)
class Question:
    """What is asked about one part of a prompt."""

    text: str
    answer: str
    """A number word where the question begins with "How many", "Yes" elsewhere."""
    skill: str
    """One of SKILLS."""

    @property
    def prompt(self) -> str:
        """The text that the model reads."""
        return f"{self.text} Answer in one word."

    @property
    def forms(self) -> tuple[str, ...]:
        """Texts that are the right answer: word and digit, large and small, with and without a blank before them."""
        words: tuple[str, ...] = (self.answer, self.answer.lower())  # Yes
        if self.text.startswith(_COUNTING):
            words = (self.answer, self.answer.capitalize(), str(_NUMBERS.index(self.answer) + 1))
        return tuple(f"{blank}{word}" for word in words for blank in ("", " "))


@dataclass(frozen=True)
class Prompt:
    """One line of geneval2_data.jsonl."""

    text: str
    atom_count: int
    """Atomicity: parts of the prompt, 3 to 10 in the released file; "a" is no part, though its number is asked for."""
    questions: tuple[Question, ...]


class AnswerProbability(Protocol):
    """Whatever says how likely answers to a question about an image are."""

    def probability(self, image: Image.Image, question: str, answers: Sequence[str]) -> float:
        """Probability (0 to 1) that the answer begins with the first token of one of some texts."""


def read_prompts(path: Path) -> list[Prompt]:
    """Read GenEval 2's own file, one JSON object a line, and print its licence to stderr once per process.

    Args:
        path: geneval2_data.jsonl.

    Raises:
        DataError: unreadable, or a line that says something else than GenEval 2's lines do.
    """
    prompts = read_json_lines(path, _prompt, original="GenEval 2's geneval2_data.jsonl")
    print_licence()
    return prompts


def prompt_id(number: int) -> str:
    """What a prompt is called: its number in the file, from 0."""
    return f"{number:04d}"


@cache
def print_licence() -> None:
    """Print LICENCE to stderr, the first time it is called."""
    print(LICENCE, file=sys.stderr, flush=True)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    questions, skills, count = row["vqa_list"], row["skills"], row["atom_count"]
    if not isinstance(row["prompt"], str) or not row["prompt"].strip() or not questions:
        raise ValueError("`prompt` or `vqa_list` is empty")
    if type(count) is not int or count < 1:
        raise ValueError(f"expected atom_count to be a positive integer, got {count!r}")
    if len(questions) != len(skills):
        raise ValueError(f"expected one skill per question, got {len(skills)} for {len(questions)} questions")
    pairs = zip(questions, skills, strict=True)
    return Prompt(row["prompt"], count, tuple(_question(text, answer, skill) for (text, answer), skill in pairs))


def _question(text: str, answer: str, skill: str) -> Question:
    if skill not in SKILLS:
        raise ValueError(f"skill {skill!r} is none of {', '.join(SKILLS)}")
    if not text.strip():
        raise ValueError("a question is empty")
    right = _NUMBERS if text.startswith(_COUNTING) else ("Yes",)
    if answer not in right:
        raise ValueError(f"the answer to {text!r} is {answer!r}, none of {', '.join(right)}")
    return Question(text, answer, skill)


def soft_tifa(probabilities: Sequence[float]) -> tuple[float, float]:
    """Arithmetic and geometric mean of the probabilities of one image's right answers.

    Args:
        probabilities: one per question, 0 to 1, at least one. Nothing is added to zeros: one of them makes GM 0.

    Returns:
        Soft-TIFA AM and GM, 0 to 1.
    """
    import numpy as np
    from scipy.stats import gmean

    return float(np.mean(probabilities)), float(gmean(probabilities))


def grade(number: int, prompt: Prompt, images: Sequence[Image.Image], judge: AnswerProbability) -> pd.DataFrame:
    """Ask all questions of a prompt about each of its images.

    Args:
        number: of the prompt in the file, from 0.
        prompt: the prompt.
        images: the images drawn from it, N >= 1 (the original draws one).
        judge: the VQA model.

    Returns:
        One row per image and question: TABLE_COLUMNS.

    Raises:
        DataError: no image, or a probability that is none.
    """
    if not images:
        raise DataError(f"prompt {number} ({prompt.text!r}): no image was drawn. Draw one or more.")
    scores = [[judge.probability(image, q.prompt, q.forms) for q in prompt.questions] for image in images]
    return _table(number, prompt, scores)


def _table(number: int, prompt: Prompt, scores: Sequence[Sequence[float]]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for image, probabilities in enumerate(scores):
        if not isinstance(probabilities, list) or len(probabilities) != len(prompt.questions):
            raise DataError(
                f"prompt {number} ({prompt.text!r}): there must be {len(prompt.questions)} probabilities, one for "
                "each question. Evaluate it with the same geneval2_data.jsonl, by soft_tifa_am or soft_tifa_gm."
            )
        for q, p in zip(prompt.questions, probabilities, strict=True):
            if not isinstance(p, int | float) or not math.isfinite(p) or not 0 <= p <= 1 + _ROUNDING:
                raise DataError(
                    f"prompt {number}, {q.text!r}: expected a probability in [0, 1] from the VQA model, got {p!r}."
                )
            rows.append((number, image, prompt.text, prompt.atom_count, q.text, q.answer, q.skill, float(p)))
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def geneval2_units(table: pd.DataFrame) -> pd.DataFrame:
    """The bootstrap's units, one per prompt and metric, all figures 0 to 1.

    `geneval2/am` and `geneval2/gm` are means over the prompts (a prompt's is the mean of its images),
    `geneval2/atomicity/{n}` is GM of the prompts of that atomicity, `geneval2/skill/{skill}` the mean over all its
    questions.

    Args:
        table: TABLE_COLUMNS of all prompts.
    """
    import numpy as np

    from hermesflow.evaluation.worlds.understanding import units_table

    rows: list[tuple[str, str, str, float, int]] = []
    for (_, atoms), group in table.groupby(["prompt", "atoms"], sort=True):
        key = prompt_id(int(group["prompt"].iloc[0]))
        am, gm = np.mean([soft_tifa(list(image)) for _, image in group.groupby("image")["probability"]], axis=0)
        rows += [("geneval2/am", POOL, key, am, 1), ("geneval2/gm", POOL, key, gm, 1)]
        rows.append((f"geneval2/atomicity/{atoms}", POOL, key, gm, 1))
        sums = group.groupby("skill", sort=True)["probability"].agg(["sum", "count"])
        rows += [(f"geneval2/skill/{skill}", POOL, key, total, count) for skill, total, count in sums.itertuples()]
    return units_table(rows)


@section
class GenEval2:
    """GenEval 2, an extra that the paper has not: composed prompts and Soft-TIFA (docs/geneval2.md).

    Its data is licensed for non-commercial use alone (CC BY-NC 4.0); the licence is printed when it is read.
    """

    prompts: str
    """The original's geneval2_data.jsonl (github.com/facebookresearch/GenEval2)."""
    images: Positive = 1
    """Images per prompt (GenEval 2: 1); of several, the mean counts."""
    judge: str | Source
    """VQA model whose probabilities count (GenEval 2: Qwen/Qwen3-VL-8B-Instruct): a folder or a source; figures by
    different ones cannot be compared."""


def read_all(settings: GenEval2, layout: Layout) -> Prompts:
    """Its prompts for generation."""
    composed = read_prompts(BENCHMARK.require_file(settings, "prompts"))
    ids = tuple(map(prompt_id, range(len(composed))))
    return Prompts(BENCHMARK.name, ids, tuple(one.text for one in composed), settings.images)


def grade_images(job: Job) -> Graded:
    """GenEval 2's questions about every image."""
    from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability
    from hermesflow.evaluation.graders.canaries import try_answer_probability
    from hermesflow.evaluation.grading import Graded, grade_by_prompt

    judge = job.tried(TransformersAnswerProbability(job.settings.judge, device=job.device), try_answer_probability)
    prompts = read_prompts(Path(job.settings.prompts))
    table = grade_by_prompt(job, lambda number, images: grade(number, prompts[number], images, judge))
    protocol = (
        f"GenEval 2, {len(prompts):,} prompts x {job.prompts.images} images; Soft-TIFA: probability that an answer "
        "begins with the right word"
    )
    notes = {"questions": sum(len(prompt.questions) for prompt in prompts), "licence of its data": TERMS}
    return Graded(table, geneval2_units(table), protocol, notes=notes)


def write_paths(settings: GenEval2, prompts: Prompts, files: Sequence[Sequence[Path]], folder: Path) -> None:
    """What evaluation.py is given, image_paths.json: the file of each prompt's first image."""
    from hermesflow.core.files import write_json

    paths = {text: str(images[0].resolve()) for text, images in zip(prompts.texts, files, strict=True)}
    write_json(folder / "image_paths.json", paths)


def columns(measured: Collection[str]) -> tuple[Column, ...]:
    """In the units of its released scripts: both means, the skills, and GM by atomicity.

    Args:
        measured: names of all figures, which say of what atomicities there are prompts.
    """
    stem = "geneval2/atomicity/"
    counts = sorted(int(metric.removeprefix(stem)) for metric in measured if metric.startswith(stem))
    named = [("gm", "Soft-TIFA GM", "gm"), ("am", "Soft-TIFA AM", "am")]
    named += [(skill, skill.capitalize(), f"skill/{skill}") for skill in SKILLS]
    named += [(f"atomicity_{n}", f"{n} parts", f"atomicity/{n}") for n in counts]
    return tuple(Column(key, title, f"geneval2/{metric}", 100.0) for key, title, metric in named)


_QUESTIONS = 8  # about an image, of the original file; a guess


def cost(plan: Plan) -> None:
    """All questions about all images, answered by one token."""
    plan.ask(plan.settings.judge, plan.images * _QUESTIONS, written=1)


BENCHMARK = ImageBenchmark(
    name="geneval2",
    order=110,
    section=GenEval2,
    meaning="A table of its own, beside the paper's.",
    read_prompts=read_all,
    grade=grade_images,
    prompt_files={"prompts": f"Take geneval2_data.jsonl of github.com/facebookresearch/GenEval2 ({TERMS})"},
    models=("judge",),
    memory=16000,  # a judge of 8B parameters passes through it
    export=Export(write_index=write_paths),
    table=ExtraTable(
        name="table_geneval2",
        title="GenEval 2",
        columns=columns,
        change="Change of GM",
        note="100 x the probability that a VQA model gives to the right answers about a prompt's parts. GM: geometric "
        "mean over an image's questions, right for whole prompts; AM: arithmetic mean; both then the mean over "
        "prompts. Skills are means over all questions of a kind; columns of parts are GM of the prompts that have so "
        "many. All is measured here and the paper has none of it; figures by different VQA models cannot be compared "
        "(docs/geneval2.md).",
        caption="**GenEval 2.** Soft-TIFA of the drawn images: how likely a VQA model finds the right answers about "
        "every part of a composed prompt, as geometric (GM) and arithmetic mean (AM), by skill and by number of "
        "parts. The paper has no such figures.",
    ),
    prompts=800,
    questions=_QUESTIONS,
    cost=cost,
    half_precision=True,
)
"""Source of its size: Kamath et al. 2025 (GenEval 2)."""
