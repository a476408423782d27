"""Columns of Tables 1 to 5: the micro world's, those of real benchmarks, and the paper's quoted ones.

A table takes the columns of one world and the quoted ones beside them. Scales bring our statistics to the paper's
units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.evaluation.benchmark import ABLATION, FIDELITY, GENERATION, UNDERSTANDING, Benchmark, Column


@dataclass(frozen=True)
class Quoted:
    """One column of figures that the paper prints."""

    key: str
    """Name in the paper's CSV."""
    title: str
    digits: int = 1
    """Decimals the paper prints."""


QUOTED_UNDERSTANDING = (
    Quoted("pope", "POPE"),
    Quoted("mme", "MME"),
    Quoted("cider", "CIDEr"),
    Quoted("vqa", "VQA"),
    Quoted("gqa", "GQA"),
    Quoted("mmmu", "MMMU"),
)
QUOTED_GENERATION = (
    Quoted("single_object", "Single object", 2),
    Quoted("two_objects", "Two objects", 2),
    Quoted("counting", "Counting", 2),
    Quoted("colors", "Colors", 2),
    Quoted("position", "Position", 2),
    Quoted("color_attribution", "Color attribution", 2),
    Quoted("overall", "Overall", 2),
    Quoted("dpg", "Dense (DPG)", 2),
)
QUOTED_FIDELITY = (
    Quoted("fid", "Frechet distance", 2),
    Quoted("clip_score", "Image-text score", 2),
)
QUOTED_ABLATION = (
    Quoted("pope", "POPE"),
    Quoted("mme", "MME"),
    Quoted("mmmu", "MMMU"),
    Quoted("geneval", "GenEval", 2),
    Quoted("dpg", "DPG", 2),
)

_KINDS = tuple(
    Column(one.key, one.title, f"geneval/{one.key}", digits=2) for one in QUOTED_GENERATION if one.key != "dpg"
)
MICRO = {
    UNDERSTANDING: (
        Column("pope", "POPE", "pope/accuracy", 100.0),
        Column("mme", "MME", "mme/total"),
        Column("cider", "CIDEr", "cider", 100.0),
        Column("vqa", "VQA", "vqa", 100.0),
        Column("gqa", "GQA", "gqa", 100.0),
        Column("mmmu", "MMMU", None),
    ),
    GENERATION: (*_KINDS, Column("dpg", "Dense (DPG)", "dpg", 100.0)),
    FIDELITY: (
        Column("fid", "Frechet distance", "fid", digits=2),
        Column("clip_score", "Image-text score", "clip_score", digits=2),
    ),
    ABLATION: (
        Column("pope", "POPE", "pope/accuracy", 100.0),
        Column("mme", "MME", "mme/total"),
        Column("mmmu", "MMMU", None),
        Column("geneval", "GenEval", "geneval/overall", digits=3),
        Column("dpg", "DPG", "dpg", 100.0),
        Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3),
        Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3),
    ),
}
"""Micro counterparts, all from a checkpoint's own evaluation."""
_HELD_OUT = (
    Column("cider", "CIDEr, held-out pairs", "cider", 100.0),
    Column("vqa", "VQA, held-out pairs", "vqa", 100.0),
)
REAL = {
    UNDERSTANDING: _HELD_OUT,
    ABLATION: (Column("gap_self", "Gap, own answers", "gap/self/gap", digits=3), *_HELD_OUT),
}
"""What a checkpoint's own evaluation measures on real pairs; it stands behind the columns of benchmarks."""


def columns_of(table: str, benchmarks: Sequence[Benchmark], *, real: bool) -> tuple[Column, ...]:
    """The measured columns of one of the paper's tables.

    Args:
        table: its name.
        benchmarks: of `registry.reported`.
        real: whether images are real ones; in the micro world its own evaluation stands for the paper's benchmarks.
    """
    columns = [column for one in benchmarks if real or not one.paper for column in one.columns_of(table)]
    return (*columns, *REAL.get(table, ())) if real else (*MICRO.get(table, ()), *columns)
