"""Tables 1 to 5: rows measured here, with intervals, then the paper's rows, quoted, under a heading of their own.

Benchmarks that the paper does not have may add a table of their own, where they were measured.

Measured figures come from `evaluation.bootstrap.summarise`; quoted ones from `config/paper_tables/*.csv`, whose
column `source` says which edition they are from. In the CSV of a table, too, `source` tells them apart.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.benchmarks import reported
from hermesflow.config.experiment import BASE, Config
from hermesflow.config.tree import iteration
from hermesflow.core.files import read_table
from hermesflow.evaluation.benchmark import (
    ABLATION,
    FIDELITY,
    GAP,
    GENERATION,
    UNDERSTANDING,
    Column,
    ExtraTable,
)
from hermesflow.report import notes
from hermesflow.report.columns import BOTH_RIGHT, GAP_SIDES, OWN_PROMPTS, columns_of
from hermesflow.report.formatting import EMPTY, Table, change, number, with_interval
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import main_checkpoints, roles

MEASURED = "measured here"
EDITION = "camera-ready"
"""Edition of the paper that quoted rows are from; another one is named beside the model."""


def all_tables(
    summary: pd.DataFrame, config: Config, paper_tables: Path, made_by: Mapping[str, str] | None = None
) -> list[Table]:
    """Tables 1 to 5, and those of benchmarks that have one of their own, where they were measured.

    Args:
        summary: of `statistics.summarise`: checkpoint, metric, value, low, high, delta, delta_low, delta_high,
            items, seeds.
        config: the experiment; says which checkpoints exist and what they grew from.
        paper_tables: folder of the paper's quoted figures.
        made_by: real benchmark to the line that says what made its figures (`facts.benchmark_lines`).

    Raises:
        ArtifactError: a file of quoted figures is missing or lacks a column.
    """
    figures, lines = Figures(summary), made_by or {}
    checkpoints = figures.checkpoints_in(main_checkpoints(config))
    tables = [
        _benchmark_table(name, title, config, figures, checkpoints, paper_tables, lines)
        for name, title in (
            (UNDERSTANDING, "Table 1: understanding"),
            (GENERATION, "Table 2: generation"),
            (FIDELITY, "Table 3: image fidelity"),
        )
    ]
    extra = [
        extra_table(one.table, figures, config, lines.get(one.name)) for one in reported(config.benchmarks) if one.table
    ]
    return [
        *tables,
        gap_table(figures, config, paper_tables, lines),
        ablation_table(figures, config, paper_tables, lines),
        *(table for table in extra if table is not None),
    ]


def _benchmark_table(
    name: str,
    title: str,
    config: Config,
    figures: Figures,
    checkpoints: Sequence[str],
    paper_tables: Path,
    lines: Mapping[str, str],
) -> Table:
    """Returns one of Tables 1 to 3: our checkpoints, then the paper's models."""
    columns = _columns(name, config, figures)
    rows: list[dict[str, Any]] = [{"model": c, "source": MEASURED, **_values(figures, c, columns)} for c in checkpoints]
    cells = [{"Model": c, **_cells(figures, c, columns)} for c in checkpoints]
    quoted = []
    for row in read_quoted(paper_tables / f"{name}.csv", columns):
        rows.append({"model": row["model"], "source": _source(row), **_quoted_values(row, columns)})
        quoted.append({"Model": _model(row), **_quoted_cells(row, columns)})
    notes_below = (notes.INTERVALS, *notes.notes_of(name, columns, config, figures, lines))
    return _table(name, title, rows, cells, notes_below, quoted)


def gap_table(figures: Figures, config: Config, paper_tables: Path, lines: Mapping[str, str]) -> Table:
    """Returns Table 4: understanding, generation, their gap and both right; the CSV holds measured rows alone."""
    sides = (*GAP_SIDES, *([BOTH_RIGHT] if figures.both_right else []))
    changed = (*GAP_SIDES[::-1], *sides[len(GAP_SIDES) :])
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    for protocol in figures.protocols():
        for checkpoint in figures.checkpoints_in((BASE, *config.checkpoints)):
            statistics = {side.key: figures.get(checkpoint, f"gap/{protocol}/{side.key}") for side in sides}
            values = {side: statistic["value"] for side, statistic in statistics.items()}
            ends = [(side.key, end) for side in changed for end in ("", "_low", "_high")]
            deltas = {f"delta_{side}{end}": statistics[side][f"delta{end}"] for side, end in ends}
            seeds = figures.seeds(checkpoint)
            rows.append({"checkpoint": checkpoint, "protocol": protocol, **values, **deltas, "seeds": seeds})
            levels = {side.title: _level(statistics[side.key], side.digits) for side in sides}
            changes = {f"Change of {side.title.lower()}": change(statistics[side.key], 3) for side in changed}
            cells.append({"Model": checkpoint, "Protocol": protocol, **levels, **changes, "Seeds": str(seeds)})
    quoted = [
        {"Model": _model(row), "Protocol": "paper's own", **_quoted_cells(row, GAP_SIDES)}
        for row in read_quoted(paper_tables / f"{GAP}.csv", GAP_SIDES)
    ]
    notes_below = notes.gap_notes(reported(config.benchmarks), figures, lines)
    return _table(GAP, "Table 4: the gap", rows, cells, notes_below, quoted)


def ablation_table(figures: Figures, config: Config, paper_tables: Path, lines: Mapping[str, str]) -> Table:
    """Returns Table 5: every checkpoint with its change against base, then the paper's rows and what they stand for."""
    checkpoint_of = roles(config)
    role_of = {checkpoint: role for role, checkpoint in checkpoint_of.items()}
    columns = _columns(ABLATION, config, figures)
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    for checkpoint in figures.checkpoints_in((BASE, *config.checkpoints)):
        names = {"checkpoint": checkpoint, "arm": _arm(config, checkpoint)}
        role = role_of.get(checkpoint)
        rows.append({**names, "source": MEASURED, "role": role, **_values(figures, checkpoint, columns)})
        cells.append({"Checkpoint": checkpoint, "Arm": names["arm"]})
        for column in columns:
            statistic = figures.get(checkpoint, column.metric, scale=column.scale)
            text, delta = number(statistic["value"], column.digits), change(statistic, column.digits)
            cells[-1][column.title] = text if checkpoint == BASE or delta == EMPTY else f"{text} ({delta})"
    quoted = []
    for row in read_quoted(paper_tables / f"{ABLATION}.csv", columns, extra=("role",)):
        rows.append({"arm": row["model"], "source": _source(row), "role": row["role"], **_quoted_values(row, columns)})
        counterpart = checkpoint_of.get(row["role"])
        name = f"as {counterpart}" if counterpart in figures.checkpoints else EMPTY
        quoted.append({"Checkpoint": name, "Arm": _model(row), **_quoted_cells(row, columns)})
    notes_below = (notes.CHANGES, notes.COUNTERPARTS, *notes.notes_of(ABLATION, columns, config, figures, lines))
    return _table(ABLATION, "Table 5: ablation", rows, cells, notes_below, quoted)


def extra_table(table: ExtraTable, figures: Figures, config: Config, line: str | None) -> Table | None:
    """Returns a benchmark's own table: every checkpoint, with the change of the main column; None if not measured.

    Args:
        table: as the benchmark declares it.
        figures: the statistics.
        config: the experiment.
        line: what made the benchmark's figures.
    """
    main, *extras = table.columns(figures.metrics)
    if not figures.measured(main.metric):
        return None
    columns = [main, *(column for column in extras if figures.measured(column.metric))]
    rows, cells = [], []
    for checkpoint in figures.checkpoints_in((BASE, *config.checkpoints)):
        texts = _cells(figures, checkpoint, columns)
        delta = change(figures.get(checkpoint, main.metric, scale=main.scale), main.digits)
        rows.append({"checkpoint": checkpoint, **_values(figures, checkpoint, columns)})
        cells.append({"Checkpoint": checkpoint, main.title: texts[main.title], table.change: delta, **texts})
    return _table(table.name, table.title, rows, cells, notes.extra_notes(table, line))


def read_quoted(path: Path, columns: Sequence[Column], *, extra: Sequence[str] = ()) -> list[dict[str, str]]:
    """Returns the paper's rows as the text that the paper prints; "" where it prints nothing.

    Raises:
        ArtifactError: the file is missing or lacks a column.
    """
    read_table(path, ["model", "source", *extra, *(c.quoted for c in columns if c.quoted)])
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _columns(table: str, config: Config, figures: Figures) -> list[Column]:
    """The columns of one of the paper's tables; GenEval's own prompts where the world could be asked any."""
    known = columns_of(table, reported(config.benchmarks), real=figures.real)
    return [column for column in known if column.metric != OWN_PROMPTS.metric or figures.measured(column.metric)]


def _arm(config: Config, checkpoint: str) -> str:
    if checkpoint == BASE:
        return "no preference training"
    entry = config.checkpoints[checkpoint]
    words = {
        "pair": "Pair-DPO",
        "product": "Pair-DPO, product",
        "understanding": "DPO, understanding only",
        "generation": "DPO, generation only",
        "chosen": "best-of-n fine-tuning",
    }
    arm = f"{words.get(entry.objective, entry.objective)}, iteration {iteration(config, checkpoint)}"
    if entry.candidates is not None:
        arm = f"{arm}, {entry.candidates} candidates"
    named = ("parent", "objective", "candidates")
    overrides = {
        key: value for key, value in vars(entry).items() if key not in named and value
    }  # 0 says: not that term
    texts = {
        key: " to ".join(map(str, value)) if isinstance(value, tuple) else value for key, value in overrides.items()
    }
    return ", ".join([arm, *(f"{key} {text}" for key, text in texts.items())])


def _values(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, float]:
    return {
        column.key if field == "value" else f"{column.key}_{field}": value
        for column in columns
        for field, value in figures.get(checkpoint, column.metric, scale=column.scale).items()
    }


def _cells(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, str]:
    return {c.title: _level(figures.get(checkpoint, c.metric, scale=c.scale), c.digits) for c in columns}


def _quoted_values(row: Mapping[str, str], columns: Sequence[Column]) -> dict[str, float]:
    return {c.key: float(row[c.quoted]) for c in columns if c.quoted and row[c.quoted]}


def _quoted_cells(row: Mapping[str, str], columns: Sequence[Column]) -> dict[str, str]:
    return {c.title: row[c.quoted] for c in columns if c.quoted and row[c.quoted]}


def _source(row: Mapping[str, str]) -> str:
    return f"paper, {row['source']}"


def _model(row: Mapping[str, str]) -> str:
    return row["model"] if row["source"] == EDITION else f"{row['model']} ({row['source']})"


def _level(statistic: Mapping[str, float], digits: int) -> str:
    return with_interval(statistic["value"], statistic["low"], statistic["high"], digits)


def _table(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    cells: Sequence[Mapping[str, str]],
    notes_below: tuple[str, ...],
    quoted: Sequence[Mapping[str, str]] = (),
) -> Table:
    """Returns a table; the first row has all columns in order. Numbers have 6 decimals and are never "-0.0"."""
    values = pd.DataFrame(list(rows))
    floats = values.select_dtypes("float").columns
    values[floats] = values[floats].round(6) + 0.0
    measured, paper = (
        pd.DataFrame([[row.get(column, EMPTY) for column in cells[0]] for row in texts], columns=list(cells[0]))
        for texts in (cells, quoted)
    )
    return Table(name, title, values, measured, notes_below, paper)
