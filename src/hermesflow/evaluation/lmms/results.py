"""lmms-eval's files of one checkpoint as rows per picture and as the figures of the paper's Table 1.

lmms-eval's own scorers make every figure; the rows come from its samples, and a figure that the rows do not add up to
is an error. Two figures are not lmms-eval's: its `pope_yes_ratio` is the share of "yes" in the truth (0.5 by design),
so that of the answers is counted here; and MME's accuracy and accuracy+ are summed by it and kept apart here.

A task's local copy is named after the shipped task with `_local` behind.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import read_json, read_table
from hermesflow.evaluation.lmms.running import IMAGES
from hermesflow.evaluation.metrics import COMPOSED
from hermesflow.evaluation.worlds.understanding import units_table

LOCAL = "_local"
POPE_TASKS = {"pope_random": "random", "pope_pop": "popular", "pope_adv": "adversarial"}
FLICKR_TASKS = {"flickr30k_test": "full", "flickr30k_karpathy": "karpathy"}
SHARED_FIGURES = {
    **{
        f"pope/{split}/{figure}": (task, f"pope_{name},none")
        for task, split in POPE_TASKS.items()
        for figure, name in {
            "accuracy": "accuracy",
            "precision": "precision",
            "recall": "recall",
            "f1": "f1_score",
        }.items()
    },
    **{f"flickr30k/{protocol}/cider": (task, "flickr_CIDEr,none") for task, protocol in FLICKR_TASKS.items()},
    "mme/perception": ("mme", "mme_perception_score,none"),
    "mme/cognition": ("mme", "mme_cognition_score,none"),
    "vqav2": ("vqav2_val", "exact_match,none"),
    "gqa": ("gqa", "exact_match,none"),
    "mmmu": ("mmmu_val", "mmmu_acc,none"),
}
"""Figures that lmms-eval prints too, and where."""
TOLERANCE = 1e-4  # lmms-eval rounds MMMU to five places
_UNREAD = frozenset({"doc_hash", "input", "resps", "token_counts"})
"""Parts of a sample that nothing here is made of."""

Sample = Mapping[str, Any]
Row = tuple[str, str, str, float, float]
"""metric, pool, picture, numerator, denominator."""


@dataclass(frozen=True)
class Run:
    """What lmms-eval left of one checkpoint."""

    folder: Path
    figures: dict[str, dict[str, Any]]
    """Task -> figure -> value, as lmms-eval names them."""
    samples: dict[str, list[Sample]]
    """Task -> one sample per record."""
    images: dict[tuple[str, int], str]
    """(task, record) -> digest of the picture it shows."""

    def image(self, task: str, sample: Sample) -> str:
        """The picture a sample is about.

        Raises:
            ArtifactError: `images.parquet` does not say.
        """
        try:
            return self.images[task, sample["doc_id"]]
        except KeyError as error:
            raise ArtifactError(
                f"{self.folder / IMAGES}: says nothing of task {task}, record {error.args[0]}. {_AGAIN}"
            ) from error


def read_run(folder: Path) -> Run:
    """Read what `running.evaluate` left.

    Raises:
        ArtifactError: a file is missing, truncated or of another form.
    """
    found = sorted(folder.glob("*/*_results.json"))
    if len(found) != 1:
        raise ArtifactError(f"{folder}: holds {len(found)} files `*_results.json` instead of one. {_AGAIN}")
    results = read_json(found[0])
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise ArtifactError(f"{found[0]}: has no `results`, so it is not of lmms-eval 0.7. {_AGAIN}")
    stem = found[0].name.removesuffix("_results.json")
    samples = {task: _read_samples(found[0].with_name(f"{stem}_samples_{task}.jsonl")) for task in results["results"]}
    images = read_table(folder / IMAGES, ("task", "doc_id", "image"))
    return Run(
        folder,
        {shipped(task): figures for task, figures in results["results"].items()},
        {shipped(task): rows for task, rows in samples.items()},
        {(shipped(task), int(key)): image for task, key, image in images.itertuples(index=False)},
    )


def shipped(task: str) -> str:
    """Name of the shipped task that a local copy stands for."""
    return task.removesuffix(LOCAL)


def run_units(run: Run) -> pd.DataFrame:
    """Numerators and denominators per picture of every benchmark of a run: UNIT_COLUMNS.

    Shares are between 0 and 1, CIDEr is pycocoevalcap's (the paper prints it times 100), MME's figures are times 100.

    Raises:
        ArtifactError: a sample has another form, or the rows do not add up to lmms-eval's own figure.
    """
    rows: list[Row] = []
    for task, samples in run.samples.items():
        try:
            rows += _task_rows(run, task, samples)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{run.folder}: a sample of {task} is not of lmms-eval 0.7.3's form ({error!r}). {_AGAIN}"
            ) from error
    units = units_table(_by_image(rows))
    _check(run, figures_of(units))
    return units


def figures_of(units: pd.DataFrame) -> dict[str, float]:
    """Every figure of the table, by metric: ratios of sums, and what is composed of them.

    A precision without any "yes", and the like, is 0, as lmms-eval has it.
    """
    sums = units.groupby("metric", sort=True)[["numerator", "denominator"]].sum()
    figures = {str(metric): n / d if d else 0.0 for metric, n, d in sums.itertuples()}
    for name, parts in COMPOSED.items():
        if all(part in figures for part in parts):
            figures[name] = sum(weight * figures[part] for part, weight in parts.items())
    return figures


def _task_rows(run: Run, task: str, samples: Sequence[Sample]) -> list[Row]:
    if task in POPE_TASKS:
        return [row for s in samples for row in _pope_rows(POPE_TASKS[task], run.image(task, s), s["pope_accuracy"])]
    if task == "mme":
        return _mme_rows([(run.image(task, s), s) for s in samples])
    if task in FLICKR_TASKS:
        stem = f"flickr30k/{FLICKR_TASKS[task]}"
        scores = cider_scores([s["flickr_CIDEr"] for s in samples])
        return [(f"{stem}/cider", stem, run.image(task, s), scores[s["flickr_CIDEr"]["image_id"]], 1) for s in samples]
    if task in ("vqav2_val", "gqa"):
        name = task.removesuffix("_val")
        return [(name, name, run.image(task, s), float(s["exact_match"]), 1) for s in samples]
    if task == "mmmu_val":
        right = mmmu_right([s["mmmu_acc"] for s in samples])
        return [("mmmu", "mmmu", run.image(task, s), float(right[s["mmmu_acc"]["id"]]), 1) for s in samples]
    return []


def _pope_rows(split: str, image: str, sample: Sample) -> list[Row]:
    """Numerators and denominators of one question: accuracy, precision, recall, F1 and yes-ratio.

    F1 = 2 TP / (answers "yes" + truths "yes"), which is the harmonic mean of precision and recall.
    """
    said, truth = sample["prediction"], sample["ground_truth"]
    if said not in ("yes", "no"):
        raise ArtifactError(
            f"POPE, {split}, question {sample['question_id']}: the answer {said!r} is not read. {_AGAIN}"
        )
    hit = said == truth == "yes"
    parts = {
        "accuracy": (said == truth, 1),
        "precision": (hit, said == "yes"),
        "recall": (hit, truth == "yes"),
        "f1": (2 * hit, (said == "yes") + (truth == "yes")),
        "yes_ratio": (said == "yes", 1),
    }
    return [(f"pope/{split}/{name}", "pope", image, float(n), float(d)) for name, (n, d) in parts.items()]


def _mme_rows(samples: Sequence[tuple[str, Sample]]) -> list[Row]:
    """Accuracy and accuracy+ (both questions right), times 100, of each picture of each category."""
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for image, sample in samples:
        one = sample.get("mme_perception_score") or sample["mme_cognition_score"]
        scores[one["category"], one["question_id"], image].append(float(one["score"]))
    rows: list[Row] = []
    for (category, _, image), some in scores.items():
        rows.append((f"mme/{category}/accuracy", "mme", image, 100 * sum(some) / len(some), 1))
        rows.append((f"mme/{category}/accuracy_plus", "mme", image, 100.0 * (sum(some) == len(some)), 1))
    return rows


def cider_scores(samples: Sequence[Sample]) -> dict[int, float]:
    """CIDEr of each caption by `image_id`; document frequencies are those of all references given.

    Args:
        samples: `image_id`, `pred` (the caption) and `answer` (its references) of each picture.

    Source: Vedantam et al. 2015 (CIDEr-D); pycocoevalcap's scorer and its Java tokenizer, as in lmms-eval.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = {("said", s["image_id"]): [s["pred"]] for s in samples}
    texts |= {("true", s["image_id"]): s["answer"] for s in samples}
    words = PTBTokenizer().tokenize({key: [{"caption": text} for text in some] for key, some in texts.items()})
    said, truth = ({s["image_id"]: words[side, s["image_id"]] for s in samples} for side in ("said", "true"))
    _, scores = Cider().compute_score(truth, said)
    return {key: float(score) for key, score in zip(truth, scores, strict=True)}


def mmmu_right(samples: Sequence[Sample]) -> dict[str, bool]:
    """Which questions are answered rightly, by id, as lmms-eval judges them; needs lmms-eval."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    verdicts, _ = evaluate_mmmu(list(samples))
    return {key: verdict == "Correct" for key, verdict in verdicts.items()}


def _by_image(rows: Iterable[Row]) -> list[Row]:
    """One row per metric and picture."""
    sums: dict[tuple[str, str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for metric, pool, image, numerator, denominator in rows:
        n, d = sums[metric, pool, image]
        sums[metric, pool, image] = n + numerator, d + denominator
    return [(*key, *value) for key, value in sorted(sums.items())]


def _check(run: Run, figures: Mapping[str, float]) -> None:
    for metric, (task, name) in SHARED_FIGURES.items():
        if task not in run.figures or metric not in figures:
            continue
        printed = run.figures[task].get(name)
        if not isinstance(printed, int | float) or not math.isclose(printed, figures[metric], abs_tol=TOLERANCE):
            raise ArtifactError(
                f"{run.folder}: lmms-eval's {name} of {task} is {printed}, but its samples add up to "
                f"{figures[metric]}. {_AGAIN}"
            )


def _read_samples(path: Path) -> list[Sample]:
    """What is wanted of each sample, line by line: a whole file of VQAv2 fills gigabytes."""
    rows: list[Sample] = []
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:  # an answer may hold other ends of lines
            for line in lines:
                sample = json.loads(line)
                rows.append({key: value for key, value in sample.items() if key not in _UNREAD})
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). {_AGAIN}") from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise ArtifactError(f"{path}, line {len(rows) + 1}: not a sample in JSON ({error}). {_AGAIN}") from error
    return rows


_AGAIN = "Delete the folder and evaluate the checkpoint again."
