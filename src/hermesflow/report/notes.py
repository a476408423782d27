"""Sentences under the tables: what is quoted and how far it compares, what is empty and what would fill it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hermesflow.config.benchmarks import reported
from hermesflow.config.experiment import Config
from hermesflow.data import geneval
from hermesflow.data.worlds.world import world_of
from hermesflow.evaluation.benchmark import (
    ABLATION,
    FIDELITY,
    GAP,
    GENERATION,
    UNDERSTANDING,
    Benchmark,
    Column,
    ExtraTable,
)
from hermesflow.report.columns import OWN_PROMPTS
from hermesflow.report.lookup import PROTOCOLS, SELF, Figures

INTERVALS = "Brackets are bootstrap intervals."
PAIRED = "Brackets of changes are bootstrap intervals of the difference to base on the same items."
CHANGES = f"In parentheses the change against base. {PAIRED}"
COUNTERPARTS = (
    "A quoted row `as NAME` is the paper's counterpart of checkpoint NAME; – where no checkpoint here is one."
)
_EMPTY_QUOTED = "A quoted cell is empty where the paper prints nothing: it has neither intervals, changes nor seeds."
QUOTED = (
    "Quoted rows are from HermesFlow (arXiv 2502.12148), measured there on other data with models of 1.3B parameters "
    f"and more; compare directions with them, not levels. {_EMPTY_QUOTED}"
)
NO_MMMU = (
    "MMMU is empty: it asks college-level questions about photographs and diagrams, which the {world}, "
    "with its {pixels} px scenes of {shows}, has no counterpart of."
)
WORLD_FIDELITY = (
    "Frechet distance (lower is better) and image-text score use the features of the {world}'s own CLIP, "
    "so their levels are not those of Inception and CLIP on photographs."
)
GENEVAL_ASKED = (
    f'"{OWN_PROMPTS.title}": the {{asked}} of its {{all}} that the {{world}} can be asked word by word, '
    "none of which is in any other split; the mean over their six kinds. The paper's column is of all."
)
WORLD_GAP = (
    "Gap = understanding - generation. `paper`: the model's answers on real images, mapped to the nearest choice, "
    "against a judge's answers on generated images. `same-judge`: both sides are graded by the judge by one rule."
)
BOTH_RIGHT = (
    "Both right: the same question is answered right about the real image and on the generated one; pairs of one "
    "caption are resampled together, and its change is paired."
)
QUOTED_REAL = (
    "Quoted rows are from HermesFlow (arXiv 2502.12148). `base` is our measurement of the weights that the paper "
    f"starts from; docs/benchmarks.md says which columns can be compared. {_EMPTY_QUOTED}"
)
HELD_OUT = (
    "Held-out pairs: captions and questions of the config's own data; answers are mapped to the nearest choice. The "
    "paper has no counterpart."
)
UNDERSTANDING_REAL = (
    "VQAv2 is measured here on val and quoted on test. The paper's MME is perception, and its CIDEr is of all "
    "Flickr30k images, as in Show-o. The paper's Show-o row mixes checkpoints: POPE 80.0 is that of the VQ-only "
    "model, the others are those of the model with CLIP-ViT."
)
_PROTOCOL_NOTES = {
    "paper": "`paper`: the model's answers on real images, mapped to the nearest choice, against the judge's answers "
    "on generated images.",
    "same-judge": "`same-judge`: the judge's reading is the rule on both sides.",
    SELF: "`self`: the model's own answers on real images and on those it generated, mapped to the nearest choice.",
}


_WORLD = {
    UNDERSTANDING: (NO_MMMU,),
    GENERATION: (GENEVAL_ASKED,),
    FIDELITY: (WORLD_FIDELITY,),
    ABLATION: (NO_MMMU, GENEVAL_ASKED),
}
"""Of small worlds; `world_notes` puts in what the world is."""
_REAL = {
    UNDERSTANDING: (UNDERSTANDING_REAL, HELD_OUT),
    ABLATION: (HELD_OUT,),
}


def notes_of(
    table: str,
    columns: Sequence[Column],
    config: Config,
    figures: Figures,
    lines: Mapping[str, str],
) -> tuple[str, ...]:
    """What the reader of a table must know about its columns.

    Args:
        table: its name.
        columns: its measured columns.
        config: the experiment.
        figures: the statistics.
        lines: real benchmark to the line that says what made its figures.
    """
    if not figures.real:
        return (QUOTED, *world_notes(table, config), *made_by(columns, lines))
    texts = (*_REAL.get(table, ()), *benchmark_notes(table, reported(config.benchmarks), figures))
    return (QUOTED_REAL, *texts, *unmeasured(columns, figures), *made_by(columns, lines))


def world_notes(table: str, config: Config) -> tuple[str, ...]:
    """What the small world of a config has no counterpart of, and has of its own."""
    world = world_of(config.data)
    words = {"world": world.title, "shows": world.shows, "pixels": config.data.image_size}
    counts = {"asked": len(world.prompts()), "all": len(geneval.prompts())}
    texts = [text for text in _WORLD.get(table, ()) if counts["asked"] or text != GENEVAL_ASKED]
    return tuple(text.format(**words, **counts) for text in texts)


def benchmark_notes(table: str, benchmarks: Sequence[Benchmark], figures: Figures) -> tuple[str, ...]:
    """What benchmarks say of their columns in a table."""
    notes = [note for one in benchmarks for note in one.notes if note.table == table]
    return tuple(note.text for note in notes if note.metric is None or figures.measured(note.metric))


def gap_notes(benchmarks: Sequence[Benchmark], figures: Figures, lines: Mapping[str, str]) -> tuple[str, ...]:
    """Notes of Table 4: the protocols, the brackets, what is quoted, and who was the judge."""
    both = (BOTH_RIGHT,) if figures.both_right else ()
    if not figures.real:
        return (WORLD_GAP, *both, INTERVALS, PAIRED, QUOTED)
    judge = (lines["gap"],) if "gap" in lines else ()
    return (
        *(real_gap(figures), *both, INTERVALS, PAIRED, QUOTED_REAL),
        *benchmark_notes(GAP, benchmarks, figures),
        *judge,
    )


def extra_notes(table: ExtraTable, line: str | None) -> tuple[str, ...]:
    """Notes of a benchmark's own table: what its figures are, and what made them."""
    return (table.note, INTERVALS, PAIRED, *((line,) if line else ()))


def unmeasured(columns: Sequence[Column], figures: Figures) -> tuple[str, ...]:
    """Returns one note that names the unmeasured columns and the config sections that fill them, or no note.

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
    return (f"Some columns were not measured here. In the config, section {'; '.join(parts)} (docs/benchmarks.md).",)


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
