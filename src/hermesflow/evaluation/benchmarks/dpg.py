"""DPG-Bench: long prompts, a tree of yes/no questions on each, answered by a VQA model about four images a prompt.

A question counts if it and all it depends on are answered "yes". An image's figure is the share of its questions that
count, a prompt's the mean of its images, the benchmark's the mean of the prompts. Category figures are shares of "yes"
without the dependency rule, as the released script prints them.

Other than the released script: the first row of the file is not skipped (which loses the whole first prompt there), a
prompt that cannot be graded stops the grading instead of being left out, and category figures are over all images of a
prompt and not its last alone.

Source: Hu et al. 2024 (ELLA, DPG-Bench, arXiv 2403.05135), dpg_bench/compute_dpg_bench.py of its repository; Cho et al.
2024 (Davidsonian scene graph).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hermesflow.config.sections import Positive, Source, section
from hermesflow.core.errors import DataError
from hermesflow.evaluation.benchmark import ABLATION, GENERATION, Column, ImageBenchmark, Note, Plan
from hermesflow.evaluation.prompts import Prompts

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from hermesflow.core.files import Layout
    from hermesflow.evaluation.graders.vqa_judge import VqaJudge
    from hermesflow.evaluation.grading import Graded, Job

CSV_COLUMNS = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
TABLE_COLUMNS = ("id", "image", "question", "category", "detail", "answer", "right", "credited")
PROMPTS, IMAGES_PER_PROMPT = 1_065, 4  # of the whole benchmark
_NO_PARENT = 0  # what `dependency` says of a question that depends on none


@dataclass(frozen=True)
class Question:
    """One node of a prompt's tree."""

    number: int
    """proposition_id."""
    text: str
    parents: tuple[int, ...]
    """Numbers of the questions it depends on."""
    category: str
    """Broad category: entity, attribute, relation, global or other."""
    detail: str
    """Detailed category, e.g. whole; may be empty."""


@dataclass(frozen=True)
class DensePrompt:
    """One prompt and its questions, in the order of the file."""

    id: str
    text: str
    questions: tuple[Question, ...]


def read_prompts(path: Path) -> list[DensePrompt]:
    """Read DPG-Bench's own file.

    Args:
        path: dpg_bench.csv, one row per question: CSV_COLUMNS.

    Raises:
        DataError: unreadable, a column is missing, or a row that cannot be understood.
    """
    texts: dict[str, str] = {}
    questions: dict[str, dict[int, Question]] = {}
    for number, row in _rows(path):
        key, text = row["item_id"], row["text"]
        try:
            question = _question(row)
        except ValueError as error:
            raise DataError(f"{path}, line {number}, prompt {key}: {error}. Correct the line.") from error
        if not key or texts.setdefault(key, text) != text:
            raise DataError(f"{path}, line {number}, prompt {key!r}: has no item_id, or another text than before.")
        if question.number in questions.setdefault(key, {}):
            raise DataError(f"{path}, line {number}, prompt {key}: question {question.number} is there twice.")
        questions[key][question.number] = question
    if not texts:
        raise DataError(f"{path}: holds no questions. Take dpg_bench/dpg_bench.csv of the original repository.")
    for key, tree in questions.items():
        for question in tree.values():
            if lost := set(question.parents) - tree.keys():
                raise DataError(
                    f"{path}, prompt {key}: question {question.number} depends on {sorted(lost)}, which the prompt "
                    "does not have. Correct `dependency`, or add the question."
                )
    return [DensePrompt(key, text, tuple(questions[key].values())) for key, text in texts.items()]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := set(CSV_COLUMNS) - set(reader.fieldnames or ()):
                raise DataError(f"{path}: columns {sorted(missing)} are missing. Take the original dpg_bench.csv.")
            for row in reader:
                if None in row:  # where csv puts fields beyond the last column
                    raise DataError(
                        f"{path}, line {reader.line_num}: has more fields than the first line has columns. Put text "
                        "with commas in quotes."
                    )
                yield reader.line_num, {name: (row[name] or "").strip() for name in CSV_COLUMNS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Take dpg_bench.csv of the original repository.") from error


def _question(row: Mapping[str, str]) -> Question:
    if not row["question_natural_language"] or not row["category_broad"]:
        raise ValueError("question or broad category is empty")
    parents = {int(number) for number in row["dependency"].split(",")} - {_NO_PARENT}
    return Question(
        int(row["proposition_id"]),
        row["question_natural_language"],
        tuple(sorted(parents)),
        row["category_broad"],
        row["category_detailed"],
    )


def credited(questions: Sequence[Question], yes: Mapping[int, bool]) -> dict[int, bool]:
    """Which questions count: answered "yes", as is everything they depend on, near or far.

    Where parents stand before their children, this is what the released script does while going down the file; a
    child above its parent is treated like any other here.

    Args:
        questions: of one prompt.
        yes: answer by question number.
    """
    parents = {question.number: question.parents for question in questions}

    def needed(number: int) -> set[int]:
        found, waiting = {number}, [number]
        while waiting:
            new = set(parents[waiting.pop()]) - found
            found |= new
            waiting += new
        return found

    return {number: all(yes[one] for one in needed(number)) for number in parents}


def is_yes(answer: str) -> bool:
    """Whether an answer is "yes", in whatever case and with whatever full stop."""
    return _word(answer) == "yes"


def answers_of(table: pd.DataFrame) -> dict[str, int]:
    """How many answers were yes, no, and neither, which counts as no: many of these, and the judge is unfit.

    Args:
        table: TABLE_COLUMNS.
    """
    counts = table["answer"].map(_word).value_counts()
    yes, no = (int(counts.get(word, 0)) for word in ("yes", "no"))
    return {"yes": yes, "no": no, "neither": len(table) - yes - no}


def _word(answer: str) -> str:
    return answer.strip().strip(".,! ").lower()


def grade(prompt: DensePrompt, images: Sequence[Image.Image], judge: VqaJudge) -> pd.DataFrame:
    """Ask all questions of a prompt about each of its images.

    Args:
        prompt: the prompt.
        images: the images drawn from it, N >= 1.
        judge: the VQA model.

    Returns:
        One row per image and question: TABLE_COLUMNS. `right`: answered "yes"; `credited`: with the dependency rule.

    Raises:
        DataError: no image, or another number of answers than questions.
    """
    import pandas as pd

    if not images:
        raise DataError(f"prompt {prompt.id}: no image was drawn. Draw {IMAGES_PER_PROMPT}.")
    rows = []
    for number, image in enumerate(images):
        answers = list(judge.answer(image, [question.text for question in prompt.questions]))
        if len(answers) != len(prompt.questions):
            raise DataError(f"prompt {prompt.id}: the judge gave {len(answers)} for {len(prompt.questions)} questions.")
        yes = {q.number: is_yes(answer) for q, answer in zip(prompt.questions, answers, strict=True)}
        counts = credited(prompt.questions, yes)
        for q, answer in zip(prompt.questions, answers, strict=True):
            row = (prompt.id, number, q.text, q.category, q.detail, answer, yes[q.number], counts[q.number])
            rows.append(row)
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def dpg_units(table: pd.DataFrame) -> pd.DataFrame:
    """The bootstrap's units: per prompt its score (`dpg`, 0 to 1), and "yes" answers per category (`dpg/entity`, ...).

    Args:
        table: TABLE_COLUMNS of all prompts.
    """
    from hermesflow.evaluation.worlds.generation import DENSE
    from hermesflow.evaluation.worlds.understanding import units_table

    images = table.groupby(["id", "image"], sort=True)["credited"].mean()
    rows = [("dpg", DENSE, key, score, 1) for key, score in images.groupby(level="id").mean().items()]
    sums = table.groupby(["category", "id"], sort=True)["right"].agg(["sum", "count"])
    rows += [(f"dpg/{category}", DENSE, key, yes, count) for (category, key), yes, count in sums.itertuples()]
    return units_table(rows)


@section
class DpgBench:
    """DPG-Bench: 1,065 long prompts with trees of questions, a VQA model as judge (docs/dpg-and-coco.md)."""

    prompts: str
    """The original's dpg_bench/dpg_bench.csv (github.com/TencentQQGYLab/ELLA)."""
    images: Positive = 4
    """Images per prompt (DPG-Bench: 4, its grid of 2 x 2)."""
    judge: str | Source
    """VQA model (BLIP, ViLT) or chat model that sees images (Qwen-VL, LLaVA): a folder or a source. The original's
    mPLUG is not to be had for transformers, so figures compare by one judge alone."""


def read_all(settings: DpgBench, layout: Layout) -> Prompts:
    """Its prompts for generation."""
    dense = read_prompts(BENCHMARK.require_file(settings, "prompts"))
    texts = tuple(one.text for one in dense)
    return Prompts(BENCHMARK.name, tuple(one.id for one in dense), texts, settings.images)


def grade_images(job: Job) -> Graded:
    """DPG-Bench's questions about every image."""
    from hermesflow.evaluation.graders.vqa_judge import vqa_judge
    from hermesflow.evaluation.grading import Graded, grade_by_prompt

    judge, prompts = vqa_judge(job.settings.judge, device=job.device), read_prompts(Path(job.settings.prompts))
    table = grade_by_prompt(job, lambda number, images: grade(prompts[number], images, judge))
    images, whole = job.prompts.images, (PROMPTS, IMAGES_PER_PROMPT)
    other = "" if (len(prompts), images) == whole else f" (the whole has {PROMPTS:,} x {IMAGES_PER_PROMPT})"
    protocol = f"DPG-Bench, {len(prompts):,} prompts x {images} images{other}; children of a no count 0"
    notes = {"questions": sum(len(prompt.questions) for prompt in prompts), "answers": answers_of(table)}
    return Graded(table, dpg_units(table), protocol, notes=notes)


_QUESTIONS = 14  # about an image, of the original file; a guess


def cost(plan: Plan) -> None:
    """All questions about all images, answered in a few words."""
    plan.ask(plan.settings.judge, plan.images * _QUESTIONS, written=10)


_DENSE = Column("dpg", "DPG", "dpg", 100.0, quoted="dpg")

BENCHMARK = ImageBenchmark(
    name="dpg",
    order=80,
    paper=True,
    section=DpgBench,
    meaning="Table 2.",
    read_prompts=read_all,
    grade=grade_images,
    prompt_files={"prompts": "Take dpg_bench/dpg_bench.csv of github.com/TencentQQGYLab/ELLA"},
    models=("judge",),
    columns={GENERATION: (_DENSE,), ABLATION: (_DENSE,)},
    notes=(
        Note(
            GENERATION,
            "DPG figures compare by one VQA judge alone, and ours is not the paper's unless it is named below; "
            "independent measurements of Show-o's DPG are 78.7 to 82.2 where the paper has 67.48.",
        ),
    ),
    prompts=PROMPTS,
    questions=_QUESTIONS,
    cost=cost,
)
"""Source of its size: Hu et al. 2024 (DPG-Bench)."""
