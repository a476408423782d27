"""Sentences under the tables: what is quoted and how far it compares, what is empty and what would fill it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hermesflow.report.columns import Column
from hermesflow.report.lookup import PROTOCOLS, SELF, Figures

INTERVALS = "Brackets are bootstrap intervals."
PAIRED = "Brackets of changes are bootstrap intervals of the difference to base on the same items."
QUOTED = (
    "Columns marked (paper) are quoted from HermesFlow (arXiv 2502.12148), measured there on other data with models "
    "of 1.3B parameters and more; compare directions with them, not levels."
)
NO_MMMU = (
    "MMMU is empty: it asks college-level questions about photographs and diagrams, which the micro world, "
    "with its 48 px scenes of flat shapes, has no counterpart of."
)
MICRO_FIDELITY = (
    "Frechet distance (lower is better) and image-text score use the features of the micro world's own CLIP, "
    "so their levels are not those of Inception and CLIP on photographs."
)
MICRO_GAP = (
    "Gap = understanding - generation. `paper`: the model's answers on real images, mapped to the nearest choice, "
    "against a judge's answers on drawn images. `same-judge`: both sides are graded by the judge by one rule."
)
QUOTED_REAL = (
    "Columns marked (paper) are quoted from HermesFlow (arXiv 2502.12148) and stand beside our own measurement of "
    "`base`; docs/benchmarks.md says which of them can be compared."
)
HELD_OUT = (
    "Held-out pairs: captions and questions of the config's own data; answers are mapped to the nearest choice. The "
    "paper has no counterpart."
)
UNDERSTANDING_REAL = (
    "MME (paper) is perception; CIDEr (paper) is of all Flickr30k images, as in Show-o; VQA (paper) is VQAv2 test, "
    "ours is val. The paper's Show-o row mixes checkpoints: POPE 80.0 is that of the VQ-only model, others are those "
    "of the model with CLIP-ViT."
)
GENERATION_REAL = (
    "DPG figures compare by one VQA judge alone, and ours is not the paper's unless it is named below; independent "
    "measurements of Show-o's DPG are 78.7 to 82.2 where the paper has 67.48."
)
FIDELITY_REAL = (
    "Lower is better for FID alone. The paper's 9.24 for Show-o is not reached from the released weights (its author "
    "says so; a user measured 26.2), and it does not name its CLIP."
)
FID_INTERVAL = (
    "FID's intervals resample drawn images and keep the reference; they are shifted to the value itself, because "
    "repeats make the distance of a resample larger."
)
GAP_REAL = "The paper's judge of drawn images is GPT-4o; it prints neither seeds nor the number of questions."
GENEVAL2 = (
    "100 x the probability that a VQA model gives to the right answers about a prompt's parts. GM: geometric mean over "
    "an image's questions, right for whole prompts; AM: arithmetic mean; both then the mean over prompts. Skills are "
    "means over all questions of a kind; columns of parts are GM of the prompts that have so many. All is measured "
    "here and the paper has none of it; figures by different VQA models cannot be compared (docs/geneval2.md)."
)
_PROTOCOL_NOTES = {
    "paper": "`paper`: the model's answers on real images, mapped to the nearest choice, against the judge's answers "
    "on drawn images.",
    "same-judge": "`same-judge`: the judge's reading is the rule on both sides.",
    SELF: "`self`: the model's own answers on real images and on those it drew, mapped to the nearest choice.",
}


_MICRO = {
    "table1_understanding": (NO_MMMU,),
    "table3_fidelity": (MICRO_FIDELITY,),
    "table5_ablation": (NO_MMMU,),
}
_REAL = {
    "table1_understanding": (UNDERSTANDING_REAL, HELD_OUT),
    "table2_generation": (GENERATION_REAL,),
    "table3_fidelity": (FIDELITY_REAL,),
    "table5_ablation": (HELD_OUT,),
}


def notes_of(table: str, columns: Sequence[Column], figures: Figures, lines: Mapping[str, str]) -> tuple[str, ...]:
    """What the reader of a table must know about its columns.

    Args:
        table: its name.
        columns: its measured columns.
        figures: the statistics.
        lines: real benchmark to the line that says what made its figures.
    """
    if not figures.real:
        return (QUOTED, *_MICRO.get(table, ()))
    fid = (FID_INTERVAL,) if figures.measured("fid") and any(c.metric == "fid" for c in columns) else ()
    return (QUOTED_REAL, *_REAL.get(table, ()), *fid, *unmeasured(columns, figures), *made_by(columns, lines))


def gap_notes(figures: Figures, lines: Mapping[str, str]) -> tuple[str, ...]:
    """Notes of Table 4: the protocols, the brackets, what is quoted, and who was the judge."""
    if not figures.real:
        return (MICRO_GAP, INTERVALS, PAIRED, QUOTED)
    judge = (lines["gap"],) if "gap" in lines else ()
    return (real_gap(figures), INTERVALS, PAIRED, QUOTED_REAL, GAP_REAL, *judge)


def geneval2_notes(lines: Mapping[str, str]) -> tuple[str, ...]:
    """Notes of GenEval 2's table: what its figures are, and what made them, with the licence of its data."""
    return (GENEVAL2, INTERVALS, PAIRED, *((lines["geneval2"],) if "geneval2" in lines else ()))


def unmeasured(columns: Sequence[Column], figures: Figures) -> tuple[str, ...]:
    """One note that names the empty columns and the sections of the config that would fill them; none if all are full.

    Args:
        columns: of a table of real benchmarks.
        figures: the statistics.
    """
    missing: dict[str, list[str]] = {}
    for column in columns:
        if column.section and not figures.measured(column.metric):
            missing.setdefault(column.section, []).append(f'"{column.title}"')
    if not missing:
        return ()
    parts = [f"`{section}` fills {', '.join(titles)}" for section, titles in missing.items()]
    return (f"Empty columns were not measured. In the config, section {'; '.join(parts)} (docs/benchmarks.md).",)


def real_gap(figures: Figures) -> str:
    """What the measured protocols of the gap are, and how to get those that were not measured."""
    known = figures.protocols()
    text = " ".join(["Gap = understanding - generation.", *(_PROTOCOL_NOTES[protocol] for protocol in known)])
    if missing := [f"`{protocol}`" for protocol in PROTOCOLS if protocol not in known]:
        text += f" {' and '.join(missing)} need a judge: section `benchmarks.gap` of the config (docs/benchmarks.md)."
    return text


def made_by(columns: Sequence[Column], lines: Mapping[str, str]) -> tuple[str, ...]:
    """One line per real benchmark behind the columns: what made its figures.

    Args:
        columns: of a table.
        lines: benchmark to its line (`facts.benchmark_lines`).
    """
    names = dict.fromkeys(column.benchmark for column in columns)
    return tuple(lines[name] for name in names if name in lines)
