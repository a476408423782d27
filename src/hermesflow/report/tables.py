"""Tables 1 to 5: what was measured here, with intervals, and the paper's quoted figures in columns of their own.

Measured figures come from `evaluation.statistics.summarise`; quoted ones from `config/paper_tables/*.csv`, whose
column `source` says which edition they are from. The two never share a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from hermesflow.artifacts import read_table
from hermesflow.config import Config
from hermesflow.report.formatting import EMPTY, Table, number, with_interval
from hermesflow.report.roles import main_checkpoints, roles
from hermesflow.sections import Defect

PROTOCOLS = ("paper", "same-judge")
SELF = "self"
"""Protocol of the gap where no judge but the model itself reads the images."""
GAP_COLUMNS = (
    *("checkpoint", "protocol", "understanding", "generation", "gap"),
    *(f"delta_{side}{end}" for side in ("gap", "generation", "understanding") for end in ("", "_low", "_high")),
    "seeds",
)
NO_MMMU = (
    "MMMU is empty: it asks college-level questions about photographs and diagrams, which the micro world, "
    "with its 48 px scenes of flat shapes, has no counterpart of."
)
NO_JUDGE = (
    "Empty columns are benchmarks that need data and judges of their own, which are not run on real images yet. VQA "
    "asks the questions of held-out pairs; its answers are mapped to the nearest choice."
)
QUOTED = (
    "Columns marked (paper) are quoted from HermesFlow (arXiv 2502.12148), measured there on other data with models "
    "of 1.3B parameters and more; compare directions with them, not levels."
)
INTERVALS = "Brackets are bootstrap intervals."
PAIRED = "Brackets of changes are bootstrap intervals of the difference to base on the same items."


@dataclass(frozen=True)
class Column:
    """One benchmark column of a table."""

    key: str
    """Name in our CSV and in the paper's."""
    title: str
    metric: str | None
    """Name in the statistics; None: nothing here measures it."""
    scale: float = 1.0
    """Brings the statistic to the paper's unit."""
    digits: int = 1
    paper_digits: int | None = None
    """Decimals the paper prints, if not `digits`."""


UNDERSTANDING = (
    Column("pope", "POPE", "pope/accuracy", 100.0),
    Column("mme", "MME", "mme/total"),
    Column("cider", "CIDEr", "cider", 100.0),
    Column("vqa", "VQA", "vqa", 100.0),
    Column("gqa", "GQA", "gqa", 100.0),
    Column("mmmu", "MMMU", None),
)
GENERATION = (
    Column("single_object", "Single object", "geneval/single_object", digits=2),
    Column("two_objects", "Two objects", "geneval/two_objects", digits=2),
    Column("counting", "Counting", "geneval/counting", digits=2),
    Column("colors", "Colors", "geneval/colors", digits=2),
    Column("position", "Position", "geneval/position", digits=2),
    Column("color_attribution", "Color attribution", "geneval/color_attribution", digits=2),
    Column("overall", "Overall", "geneval/overall", digits=2),
    Column("dpg", "Dense (DPG)", "dpg", 100.0, paper_digits=2),
)
FIDELITY = (
    Column("fid", "Frechet distance", "fid", digits=2),
    Column("clip_score", "Image-text score", "clip_score", digits=2),
)
ABLATION = (
    Column("pope", "POPE", "pope/accuracy", 100.0),
    Column("mme", "MME", "mme/total"),
    Column("mmmu", "MMMU", None),
    Column("geneval", "GenEval", "geneval/overall", digits=3, paper_digits=2),
    Column("dpg", "DPG", "dpg", 100.0, paper_digits=2),
)
GAPS = (
    Column("gap_paper", "Gap, paper's protocol", "gap/paper/gap", digits=3),
    Column("gap_same_judge", "Gap, same judge", "gap/same-judge/gap", digits=3),
)
OWN_GAP = (
    Column("vqa", "VQA", "vqa", 100.0),
    Column("cider", "CIDEr", "cider", 100.0),
    Column("gap_self", "Gap, own answers", "gap/self/gap", digits=3),
)


class Figures:
    """Look-up in the statistics by checkpoint and metric."""

    FIELDS = ("value", "low", "high", "delta", "delta_low", "delta_high")

    def __init__(self, summary: pd.DataFrame) -> None:
        """Index the result of `statistics.summarise`."""
        self._rows = {(str(r["checkpoint"]), str(r["metric"])): r for r in summary.to_dict("records")}
        self.checkpoints = tuple(dict.fromkeys(checkpoint for checkpoint, _ in self._rows))

    def get(self, checkpoint: str, metric: str | None, *, scale: float = 1.0) -> dict[str, float]:
        """Value, interval, change against base and its interval, scaled; NaN where nothing was measured."""
        row = self._rows.get((checkpoint, metric or ""), {})
        return {field: float(row.get(field, float("nan"))) * scale for field in self.FIELDS}

    def seeds(self, checkpoint: str) -> int:
        """Number of run seeds behind a checkpoint's figures."""
        return next(int(r["seeds"]) for (c, _), r in self._rows.items() if c == checkpoint)

    def protocols(self) -> tuple[str, ...]:
        """Protocols of the gap that were measured; those of the micro world where none was."""
        known = {metric.split("/")[1] for _, metric in self._rows if metric.startswith("gap/")}
        return tuple(p for p in (*PROTOCOLS, SELF) if p in known) or PROTOCOLS

    @property
    def judged(self) -> bool:
        """Whether an independent judge has read the images."""
        return SELF not in self.protocols()

    def kept(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of the names that were evaluated, in the given order."""
        return tuple(name for name in names if name in self.checkpoints)


def all_tables(summary: pd.DataFrame, config: Config, paper_tables: Path) -> list[Table]:
    """Tables 1 to 5.

    Args:
        summary: of `statistics.summarise`: checkpoint, metric, value, low, high, delta, delta_low, delta_high,
            items, seeds.
        config: the experiment; says which checkpoints exist and what they grew from.
        paper_tables: folder of the paper's quoted figures.

    Raises:
        ArtifactError: a file of quoted figures is missing or lacks a column.
    """
    figures = Figures(summary)
    ours = figures.kept(main_checkpoints(config))
    return [
        _benchmark("table1_understanding", "Table 1: understanding", UNDERSTANDING, figures, ours, paper_tables),
        _benchmark("table2_generation", "Table 2: generation", GENERATION, figures, ours, paper_tables),
        _benchmark("table3_fidelity", "Table 3: image fidelity", FIDELITY, figures, ours, paper_tables),
        gap_table(figures, config, paper_tables),
        ablation_table(figures, config, paper_tables),
    ]


def _benchmark(
    name: str, title: str, columns: Sequence[Column], figures: Figures, ours: Sequence[str], paper_tables: Path
) -> Table:
    """A table whose rows are our checkpoints, then the paper's models in the quoted columns."""
    quoted = read_quoted(paper_tables / f"{name}.csv", columns)
    rows = [{"model": c, "source": "measured here", **_plain(figures, c, columns)} for c in ours]
    cells = [{"Model": c, "Source": "measured here", **_cells(figures, c, columns)} for c in ours]
    for _, row in quoted.iterrows():
        source = f"paper, {row['source']}"
        rows.append({"model": row["model"], "source": source, **{f"quoted_{c.key}": row[c.key] for c in columns}})
        cells.append({"Model": row["model"], "Source": source, **_quoted_cells(row, columns)})
    notes = [INTERVALS, QUOTED]
    if not figures.judged:
        notes.append(NO_JUDGE)
    elif any(c.metric is None for c in columns):
        notes.append(NO_MMMU)
    if columns is FIDELITY and figures.judged:
        notes.append(
            "Frechet distance (lower is better) and image-text score use the features of the micro world's own CLIP, "
            "so their levels are not those of Inception and CLIP on photographs."
        )
    order = [*_cell_titles(columns), *(f"{c.title} (paper)" for c in columns)]
    return Table(
        name, title, _frame(rows, ["model", "source", *_value_names(columns)]),
        _frame(cells, ["Model", "Source", *order]).fillna(EMPTY), tuple(notes),
    )  # fmt: skip


def gap_table(figures: Figures, config: Config, paper_tables: Path) -> Table:
    """Table 4: understanding, generation and their gap by both protocols; the CSV holds measured rows alone."""
    sides = ("understanding", "generation", "gap")
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    for protocol in figures.protocols():
        for checkpoint in figures.kept(("base", *config.checkpoints)):
            found = {side: figures.get(checkpoint, f"gap/{protocol}/{side}") for side in sides}
            deltas = {
                f"delta_{side}{end}": found[side][f"delta{end}"] for side in sides for end in ("", "_low", "_high")
            }
            values = {side: found[side]["value"] for side in sides}
            seeds = figures.seeds(checkpoint)
            rows.append({"checkpoint": checkpoint, "protocol": protocol, **values, **deltas, "seeds": seeds})
            shown = {side.capitalize(): _own(found[side], 3) for side in sides}
            changes = {f"Change of {side}": _change(found[side], 3) for side in ("gap", "generation", "understanding")}
            cells.append({"Model": checkpoint, "Protocol": protocol, **shown, **changes, "Seeds": str(seeds)})
    columns = [Column(side, side.capitalize(), None, digits=3) for side in sides]
    for _, row in read_quoted(paper_tables / "table4_gap.csv", columns).iterrows():
        source = f"paper's own ({row['source']})"
        cells.append({"Model": f"{row['model']} (quoted)", "Protocol": source, **_quoted_cells(row, columns)})
    notes = (
        "Gap = understanding - generation. `paper`: the model's answers on real images, mapped to the nearest choice, "
        "against a judge's answers on drawn images. `same-judge`: both sides are graded by the judge by one rule.",
        INTERVALS, PAIRED, QUOTED,
    )  # fmt: skip
    if not figures.judged:
        notes = (
            "Gap = understanding - generation. `self`: the model's own answers on real images and on those it drew, "
            "mapped to the nearest choice. The paper has another judge for drawn images.",
            *notes[1:],
        )
    order = list(cells[0]) + [f"{c.title} (paper)" for c in columns]
    shown_cells = _frame(cells, order).fillna(EMPTY)
    return Table("table4_gap", "Table 4: the gap", _frame(rows, GAP_COLUMNS), shown_cells, notes)


def ablation_table(figures: Figures, config: Config, paper_tables: Path) -> Table:
    """Table 5: every checkpoint, its change against base, and the paper's figures beside the matching rows."""
    quoted = read_quoted(paper_tables / "table5_ablation.csv", ABLATION, extra=("role",))
    paper_rows = {str(row["role"]): row for _, row in quoted.iterrows()}
    role_of = {name: role for role, name in roles(config).items() if role in paper_rows}
    columns = (*ABLATION, *(GAPS if figures.judged else OWN_GAP))
    reason = NO_MMMU if figures.judged else NO_JUDGE
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    for checkpoint in figures.kept(("base", *config.checkpoints)):
        arm = _arm(config, checkpoint)
        row: dict[str, Any] = {"checkpoint": checkpoint, "arm": arm, **_plain(figures, checkpoint, columns)}
        cell = {"Checkpoint": checkpoint, "Arm": arm}
        for column in columns:
            found = figures.get(checkpoint, column.metric, scale=column.scale)
            change = _change(found, column.digits) if checkpoint != "base" else EMPTY
            text = number(found["value"], column.digits)
            cell[column.title] = text if change == EMPTY else f"{text} ({change})"
        if checkpoint in role_of:
            paper = paper_rows[role_of[checkpoint]]
            row |= {"quoted_model": paper["model"], "quoted_source": paper["source"]}
            row |= {f"quoted_{c.key}": paper[c.key] for c in ABLATION}
            cell |= {"Paper's row": f"{paper['model']} ({paper['source']})", **_quoted_cells(paper, ABLATION)}
        rows.append(row)
        cells.append(cell)
    names = ["checkpoint", "arm", *_value_names(columns, quoted=False), "quoted_model", "quoted_source"]
    order = ["Checkpoint", "Arm", *(c.title for c in columns), "Paper's row", *(f"{c.title} (paper)" for c in ABLATION)]
    return Table(
        "table5_ablation", "Table 5: ablation", _frame(rows, [*names, *(f"quoted_{c.key}" for c in ABLATION)]),
        _frame(cells, order).fillna(EMPTY), ("In parentheses the change against base. " + PAIRED, QUOTED, reason),
    )  # fmt: skip


def read_quoted(path: Path, columns: Sequence[Column], *, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The paper's figures; empty where the paper prints none.

    Raises:
        ArtifactError: the file is missing or lacks a column.
    """
    return read_table(path, ["model", "source", *extra, *(c.key for c in columns)])


def _arm(config: Config, checkpoint: str) -> str:
    if checkpoint == "base":
        return "no preference training"
    own = config.checkpoints[checkpoint]
    words = {"pair": "Pair-DPO", "product": "Pair-DPO, product", "understanding": "DPO, understanding only"}
    arm = f"{words.get(own.objective, 'DPO, generation only')}, iteration {config.iteration(checkpoint)}"
    if own.candidates is not None:
        arm = f"{arm}, {own.candidates} candidates"
    return arm + _defects(config, checkpoint)


def _defects(config: Config, checkpoint: str) -> str:
    found, every = config.defects_of(checkpoint), get_args(Defect)
    if len(found) == len(every):
        return ", as the released code"
    return f", with {', '.join(d.replace('_', ' ') for d in every if d in found)}" if found else ""


def _plain(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, float]:
    found: dict[str, float] = {}
    for column in columns:
        values = figures.get(checkpoint, column.metric, scale=column.scale)
        found |= {_value_name(column, field): value for field, value in values.items()}
    return found


def _cells(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, str]:
    return {c.title: _own(figures.get(checkpoint, c.metric, scale=c.scale), c.digits) for c in columns}


def _quoted_cells(row: pd.Series, columns: Sequence[Column]) -> dict[str, str]:
    return {
        f"{c.title} (paper)": number(row[c.key], c.digits if c.paper_digits is None else c.paper_digits)
        for c in columns
    }


def _own(found: dict[str, float], digits: int) -> str:
    return with_interval(found["value"], found["low"], found["high"], digits)


def _change(found: dict[str, float], digits: int) -> str:
    return with_interval(found["delta"], found["delta_low"], found["delta_high"], digits, signed=True)


def _cell_titles(columns: Sequence[Column]) -> list[str]:
    return [c.title for c in columns]


def _value_name(column: Column, field: str) -> str:
    return column.key if field == "value" else f"{column.key}_{field}"


def _value_names(columns: Sequence[Column], *, quoted: bool = True) -> list[str]:
    own = [_value_name(c, field) for c in columns for field in Figures.FIELDS]
    return own + [f"quoted_{c.key}" for c in columns if quoted]


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table of exactly these columns; floats to 6 decimals, without "-0.0"."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].round(6) + 0.0
    return frame
