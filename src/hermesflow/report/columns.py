"""Columns of Tables 1 to 5: the micro world's, those of real benchmarks, and the paper's quoted ones.

A table takes the columns of one world and the quoted ones beside them. Scales bring our statistics to the paper's
units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.evaluation.metrics import GENEVAL2_SKILLS


@dataclass(frozen=True)
class Column:
    """One measured column of a table."""

    key: str
    """Name in our CSV."""
    title: str
    metric: str | None
    """Name in the statistics; None: nothing here measures it."""
    scale: float = 1.0
    """Brings the statistic to the paper's unit."""
    digits: int = 1
    section: str = ""
    """Section of the config that has it measured; empty where every config does, or none."""
    benchmark: str = ""
    """Real benchmark it comes from, as its folder is named; empty where it comes from the checkpoint's evaluation."""


@dataclass(frozen=True)
class Quoted:
    """One column of figures that the paper prints."""

    key: str
    """Name in the paper's CSV."""
    title: str
    digits: int = 1
    """Decimals the paper prints."""


@dataclass(frozen=True)
class Columns:
    """The measured columns of one world."""

    understanding: tuple[Column, ...]
    generation: tuple[Column, ...]
    fidelity: tuple[Column, ...]
    ablation: tuple[Column, ...]


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

_LMMS, _GENEVAL, _DPG, _COCO, _GAP = (
    f"benchmarks.{name}" for name in ("understanding", "geneval", "dpg", "coco", "gap")
)
_KINDS = tuple(
    Column(one.key, one.title, f"geneval/{one.key}", digits=2, section=_GENEVAL, benchmark="geneval")
    for one in QUOTED_GENERATION
    if one.key != "dpg"
)

MICRO = Columns(
    understanding=(
        Column("pope", "POPE", "pope/accuracy", 100.0),
        Column("mme", "MME", "mme/total"),
        Column("cider", "CIDEr", "cider", 100.0),
        Column("vqa", "VQA", "vqa", 100.0),
        Column("gqa", "GQA", "gqa", 100.0),
        Column("mmmu", "MMMU", None),
    ),
    generation=(*_KINDS, Column("dpg", "Dense (DPG)", "dpg", 100.0)),
    fidelity=(
        Column("fid", "Frechet distance", "fid", digits=2),
        Column("clip_score", "Image-text score", "clip_score", digits=2),
    ),
    ablation=(
        Column("pope", "POPE", "pope/accuracy", 100.0),
        Column("mme", "MME", "mme/total"),
        Column("mmmu", "MMMU", None),
        Column("geneval", "GenEval", "geneval/overall", digits=3),
        Column("dpg", "DPG", "dpg", 100.0),
        Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3),
        Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3),
    ),
)
"""Micro counterparts, all from a checkpoint's own evaluation."""

_POPE = Column("pope", "POPE", "pope/accuracy", 100.0, section=_LMMS, benchmark="pope")
_PERCEPTION = Column("mme", "MME perception", "mme/perception", section=_LMMS, benchmark="mme")
_MMMU = Column("mmmu", "MMMU val", "mmmu", 100.0, section=_LMMS, benchmark="mmmu")
_DENSE = Column("dpg", "DPG", "dpg", 100.0, section=_DPG, benchmark="dpg")
_HELD_OUT = (
    Column("cider", "CIDEr, held-out pairs", "cider", 100.0),
    Column("vqa", "VQA, held-out pairs", "vqa", 100.0),
)

REAL = Columns(
    understanding=(
        _POPE,
        _PERCEPTION,
        Column("mme_cognition", "MME cognition", "mme/cognition", section=_LMMS, benchmark="mme"),
        Column("flickr30k", "Flickr30k CIDEr, all images", "flickr30k/full/cider", 100.0,
               section=_LMMS, benchmark="flickr30k"),
        Column("flickr30k_karpathy", "Flickr30k CIDEr, Karpathy 1K", "flickr30k/karpathy/cider", 100.0,
               section=_LMMS, benchmark="flickr30k"),
        Column("vqav2", "VQAv2 val", "vqav2", 100.0, section=_LMMS, benchmark="vqav2"),
        Column("gqa", "GQA", "gqa", 100.0, section=_LMMS, benchmark="gqa"),
        _MMMU,
        *_HELD_OUT,
    ),
    generation=(*_KINDS, _DENSE),
    fidelity=(
        Column("fid", "COCO-30K FID", "fid", digits=2, section=_COCO, benchmark="coco"),
        Column("clip_score", "CLIP score", "clip_score", digits=2, section=_COCO, benchmark="coco"),
    ),
    ablation=(
        _POPE,
        _PERCEPTION,
        _MMMU,
        Column("geneval", "GenEval", "geneval/overall", digits=3, section=_GENEVAL, benchmark="geneval"),
        _DENSE,
        Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3, section=_GAP, benchmark="gap"),
        Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3, section=_GAP, benchmark="gap"),
        Column("gap_self", "Gap, own answers", "gap/self/gap", digits=3),
        *_HELD_OUT,
    ),
)  # fmt: skip
"""Real benchmarks, and what a checkpoint's own evaluation measures on real pairs."""


def geneval2_columns(atomicities: Sequence[int]) -> tuple[Column, ...]:
    """GenEval 2 in the units of its released scripts: both means, the skills, and GM by atomicity.

    Args:
        atomicities: numbers of parts that there are prompts of.
    """
    own = [("gm", "Soft-TIFA GM", "gm"), ("am", "Soft-TIFA AM", "am")]
    own += [(skill, skill.capitalize(), f"skill/{skill}") for skill in GENEVAL2_SKILLS]
    own += [(f"atomicity_{n}", f"{n} parts", f"atomicity/{n}") for n in atomicities]
    return tuple(Column(key, title, f"geneval2/{metric}", 100.0) for key, title, metric in own)
