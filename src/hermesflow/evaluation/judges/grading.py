"""The gap of one checkpoint on real images, from the model's answers to the judge's verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hermesflow.config.judges import AnyJudge, Endpoint
from hermesflow.evaluation.benchmarks.grading import Graded
from hermesflow.evaluation.judges.endpoint import EndpointJudge
from hermesflow.evaluation.judges.gap import about_images, ask, gap_table, judge_facts
from hermesflow.evaluation.judges.local import LocalJudge
from hermesflow.evaluation.judges.protocol import Judge
from hermesflow.evaluation.worlds.gap import Asked, gap_units


def judge_of(settings: AnyJudge, *, device: str) -> EndpointJudge | LocalJudge:
    """The judge that a config names.

    Raises:
        ConfigError: a local one cannot be read.
        FetchError: a source cannot be had.
    """
    return EndpointJudge(settings) if isinstance(settings, Endpoint) else LocalJudge(settings, device=device)


def check_judge(
    settings: AnyJudge, asked: Sequence[Asked], *, real: Mapping[str, bytes], drawn: Mapping[str, bytes]
) -> None:
    """Look, before the model answers anything, whether an endpoint can be asked; a local judge is not loaded for it.

    Args:
        settings: of the judge.
        asked: Q questions.
        real: id -> PNG of the real image.
        drawn: id -> PNG of the image drawn from its caption.

    Raises:
        ConfigError: images must be asked about, and there is no key or no address.
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the estimate for the images alone is beyond `max_cost`.
    """
    if isinstance(settings, Endpoint):
        EndpointJudge(settings).check(about_images(asked, real=real, drawn=drawn))


def grade_gap(
    judge: Judge,
    asked: Sequence[Asked],
    captions: Mapping[str, str],
    *,
    free: Sequence[str],
    nearest: Sequence[str],
    real: Mapping[str, bytes],
    drawn: Mapping[str, bytes],
) -> Graded:
    """Both protocols of the gap.

    Args:
        judge: who looks at the images.
        asked: Q questions.
        captions: by pair id; pairs of one caption are one unit.
        free: Q free answers of the model on the real image.
        nearest: Q choices nearest to them.
        real: id -> PNG of the real image.
        drawn: id -> PNG of the image drawn from its caption.

    Raises:
        DataError: an image is missing, or a question cannot be asked.
        JudgeError: the judge does not answer.
    """
    judged = ask(judge, asked, free=free, real=real, drawn=drawn)
    table = gap_table(asked, free=free, nearest=nearest, judged=judged)
    notes: dict[str, Any] = {"questions": len(asked), "verdicts": judge_facts(asked, judged)}
    if isinstance(judge, EndpointJudge):
        notes |= {"models": list(judge.models), "cost": asdict(judge.bill) if judge.bill else {}}
    elif isinstance(judge, LocalJudge):
        notes["digest of the judge"] = judge.digest[:16]
    protocol = (
        f"{len(asked):,} questions about {len(captions):,} held-out pairs, one image drawn for each; paper: own "
        "answers on real images, the judge's on drawn ones; same-judge: the judge reads both"
    )
    return Graded(table, gap_units(table, captions), protocol, notes=notes)
