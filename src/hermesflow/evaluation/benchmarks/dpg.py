"""DPG-Bench: long prompts, a tree of yes/no questions on each, answered by a VQA model about four images a prompt.

A question counts if it is answered "yes" and the questions it depends on count (`credited`). An image's figure is the
share of its questions that count, a prompt's the mean of its images, the benchmark's the mean of the prompts. Category
figures are shares of "yes" without the dependency rule, as the released script prints them.

Other than the released script: the first row of the file is not skipped (which loses the whole first prompt there), a
prompt that cannot be graded stops the grading instead of being left out (or is left out on request and counted under
the table), and category figures are over all images of a prompt and not its last alone.

Source: Hu et al. 2024 (ELLA, DPG-Bench, arXiv 2403.05135), dpg_bench/compute_dpg_bench.py of its repository; Cho et al.
2024 (Davidsonian scene graph).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
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
_FILLED = ("item_id", "text", "category_broad", "question_natural_language")
_BEYOND = "beyond the last column"
_NUMBER = re.compile(r"[0-9]{1,9}")
_MAX_FAULTS = 100  # faults of a file that a message names


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
class Fault:
    """What is wrong with a row of the file."""

    line: int
    prompt: str
    """item_id."""
    what: str


@dataclass(frozen=True)
class DensePrompt:
    """One prompt and its questions, in the order of the file."""

    id: str
    text: str
    questions: tuple[Question, ...]


def read_prompts(path: Path, *, leave_out_faulty: bool = False) -> list[DensePrompt]:
    """Read DPG-Bench's own file.

    Args:
        path: dpg_bench.csv, one row per question: CSV_COLUMNS.
        leave_out_faulty: leave out prompts with a row that cannot be understood.

    Raises:
        DataError: unreadable, a column is missing, or rows that cannot be understood, all of which are named.
    """
    prompts, faults, _ = parse_prompts(path)
    if faults and not (leave_out_faulty and prompts):
        raise DataError(
            f"{path}: {fault_list(faults)}. Correct these rows, or leave their prompts out by "
            "benchmarks.dpg.leave_out_faulty: true (not all prompts can be left out)."
        )
    return prompts


def parse_prompts(path: Path) -> tuple[list[DensePrompt], list[Fault], dict[str, int]]:
    """Prompts of DPG-Bench's own file that have no fault, the faults of all others, and rows by prompt.

    Args:
        path: dpg_bench.csv, one row per question: CSV_COLUMNS.

    Raises:
        DataError: unreadable, a column is missing, or there are no rows.
    """
    texts: dict[str, str] = {}
    rows: Counter[str] = Counter()
    lines: dict[tuple[str, int], int] = {}
    questions: dict[str, list[tuple[int, Question]]] = {}
    faults: list[Fault] = []
    for line, row in _rows(path):
        key = row["item_id"]
        rows[key] += 1
        wrong = list(_faults(row))
        if texts.setdefault(key, row["text"]) != row["text"]:
            wrong.append("has another text than before")
        if _NUMBER.fullmatch(number := row["proposition_id"]) and lines.setdefault((key, int(number)), line) != line:
            wrong.append(f"question {number} is there twice, first in line {lines[key, int(number)]}")
        faults += [Fault(line, key, one) for one in wrong]
        if not wrong:
            questions.setdefault(key, []).append((line, _question(row)))
    if not rows:
        raise DataError(f"{path}: holds no questions. Take dpg_bench/dpg_bench.csv of the original repository.")
    for key, tree in questions.items():
        for line, question in tree:
            lost = [str(one) for one in question.parents if (key, one) not in lines]
            if lost:
                wrong_parent = (
                    f"question {question.number} depends on {', '.join(lost)}, which its prompt does not have"
                )
                faults.append(Fault(line, key, wrong_parent))
    faulty = {fault.prompt for fault in faults}
    prompts = [DensePrompt(key, texts[key], tuple(q for _, q in questions[key])) for key in rows if key not in faulty]
    return prompts, sorted(faults, key=lambda fault: fault.line), dict(rows)


def fault_list(faults: Sequence[Fault]) -> str:
    """The first hundred faults in words, and the number of the others."""
    words = [f"line {one.line}, prompt {one.prompt}: {one.what}" for one in faults[:_MAX_FAULTS]]
    return "; ".join([*words, *([f"and {len(faults) - _MAX_FAULTS:,} more"] if len(faults) > _MAX_FAULTS else [])])


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and columns of each question; `_BEYOND` is what stands beyond the last column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey=_BEYOND)
            names = list(reader.fieldnames or ())
            if wrong := [name for name in CSV_COLUMNS if names.count(name) != 1]:
                raise DataError(f"{path}: columns {wrong} are missing or there twice. Take the original dpg_bench.csv.")
            for row in reader:
                beyond = ",".join(row.pop(_BEYOND, ()))
                cells = {name: (row[name] or "").strip() for name in CSV_COLUMNS}
                rest = cells.values() if None in row.values() else [cells[CSV_COLUMNS[-1]]]
                if any(re.search(r"[\r\n]", cell) for cell in rest):
                    raise DataError(
                        f"{path}: a quote is not closed in the row that ends in line {reader.line_num}, so it holds "
                        "the rows below it. Close the quote, and double those inside a text."
                    )
                yield reader.line_num, {_BEYOND: beyond, **cells}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Take dpg_bench.csv of the original repository.") from error


def _faults(row: Mapping[str, str]) -> Iterator[str]:
    if row[_BEYOND]:
        yield f"has more fields than the first line has columns ({row[_BEYOND]!r}); put text with commas in quotes"
    if empty := [name for name in _FILLED if not row[name]]:
        yield f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty"
    if not _NUMBER.fullmatch(row["proposition_id"]):
        yield f"proposition_id {row['proposition_id']!r} is not a whole number"
    if not all(_NUMBER.fullmatch(one.strip()) for one in row["dependency"].split(",")):
        yield f"dependency {row['dependency']!r} is not whole numbers between commas"


def _question(row: Mapping[str, str]) -> Question:
    parents = {int(number) for number in row["dependency"].split(",")} - {_NO_PARENT}
    return Question(
        int(row["proposition_id"]),
        row["question_natural_language"],
        tuple(sorted(parents)),
        row["category_broad"],
        row["category_detailed"],
    )


def credited(questions: Sequence[Question], yes: Mapping[int, bool]) -> dict[int, bool]:
    """Which questions count: answered "yes", and so do the questions it depends on directly.

    As the released script does it, going down the file once: a parent above its child has lost its "yes" by then if
    one of its own parents was answered "no"; a parent below its child is taken as it was answered.

    Args:
        questions: of one prompt, in the order of the file.
        yes: answer by question number.

    Source: compute_dpg_bench.py of DPG-Bench, `compute_dpg_one_sample`.
    """
    counts = dict(yes)
    for question in questions:
        counts[question.number] &= all(counts[parent] for parent in question.parents)
    return counts


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
    leave_out_faulty: bool = False
    """Leave out prompts that have a row with a fault, instead of refusing the file; the note under the table counts
    them."""
    judge: str | Source
    """VQA model (BLIP, ViLT) or chat model that sees images (Qwen-VL, LLaVA): a folder or a source. The original's
    mPLUG is not to be had for transformers, so figures compare by one judge alone."""


def read_all(settings: DpgBench, layout: Layout) -> Prompts:
    """Its prompts for generation."""
    dense = read_prompts(BENCHMARK.require_file(settings, "prompts"), leave_out_faulty=settings.leave_out_faulty)
    texts = tuple(one.text for one in dense)
    return Prompts(BENCHMARK.name, tuple(one.id for one in dense), texts, settings.images)


def grade_images(job: Job) -> Graded:
    """DPG-Bench's questions about every image."""
    from hermesflow.evaluation.graders.canaries import try_vqa
    from hermesflow.evaluation.graders.vqa_judge import vqa_judge
    from hermesflow.evaluation.grading import Graded, grade_by_prompt

    judge = job.tried(vqa_judge(job.settings.judge, device=job.device), try_vqa)
    prompts, faults, rows = parse_prompts(Path(job.settings.prompts))
    table = grade_by_prompt(job, lambda number, images: grade(prompts[number], images, judge))
    images, whole = job.prompts.images, (PROMPTS, IMAGES_PER_PROMPT)
    other = "" if (len(prompts), images) == whole else f" (the whole has {PROMPTS:,} x {IMAGES_PER_PROMPT})"
    protocol = f"DPG-Bench, {len(prompts):,} prompts x {images} images{other}; children of a no count 0"
    texts = [question.text for prompt in prompts for question in prompt.questions]
    notes = {"questions": len(texts), "answers": answers_of(table)}
    if cut := sum(judge.is_cut(texts)):
        notes["questions that the judge cut"] = cut
    if faults:
        names = {fault.prompt for fault in faults}
        questions = sum(rows[name] for name in names)
        notes["left out"] = f"{len(names):,} prompts with {questions:,} questions ({fault_list(faults)})"
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
    prompt_options=("leave_out_faulty",),
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
