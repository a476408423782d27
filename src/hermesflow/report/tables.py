"""Tables 1 to 5: what was measured here, with intervals, and the paper's quoted figures in columns of their own.

Benchmarks that the paper has not may have a table of their own beside them, where they were measured.

Measured figures come from `evaluation.statistics.summarise`; quoted ones from `config/paper_tables/*.csv`, whose
column `source` says which edition they are from. The two never share a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.benchmarks import reported
from hermesflow.config.experiment import Config
from hermesflow.config.tree import iteration
from hermesflow.core.files import read_table
from hermesflow.evaluation.benchmark import ABLATION, FIDELITY, GENERATION, UNDERSTANDING, Benchmark, Column, ExtraTable
from hermesflow.report import notes
from hermesflow.report.columns import (
    QUOTED_ABLATION,
    QUOTED_FIDELITY,
    QUOTED_GENERATION,
    QUOTED_UNDERSTANDING,
    Quoted,
    columns_of,
)
from hermesflow.report.formatting import EMPTY, Table, number, with_interval
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import main_checkpoints, roles

GAP_COLUMNS = (
    *("checkpoint", "protocol", "understanding", "generation", "gap"),
    *(f"delta_{side}{end}" for side in ("gap", "generation", "understanding") for end in ("", "_low", "_high")),
    "seeds",
)


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
    ours, benchmarks = figures.kept(main_checkpoints(config)), reported(config.benchmarks)
    tables = [
        _benchmark(name, title, quoted, benchmarks, figures, ours, paper_tables, lines)
        for name, title, quoted in (
            (UNDERSTANDING, "Table 1: understanding", QUOTED_UNDERSTANDING),
            (GENERATION, "Table 2: generation", QUOTED_GENERATION),
            (FIDELITY, "Table 3: image fidelity", QUOTED_FIDELITY),
        )
    ]
    extra = [extra_table(one.table, figures, config, lines.get(one.name)) for one in benchmarks if one.table]
    return [
        *tables,
        gap_table(figures, config, paper_tables, lines),
        ablation_table(figures, config, paper_tables, lines),
        *(table for table in extra if table is not None),
    ]


def _benchmark(
    name: str,
    title: str,
    printed: Sequence[Quoted],
    benchmarks: Sequence[Benchmark],
    figures: Figures,
    ours: Sequence[str],
    paper_tables: Path,
    lines: Mapping[str, str],
) -> Table:
    """A table whose rows are our checkpoints, then the paper's models in the quoted columns."""
    columns = columns_of(name, benchmarks, real=figures.real)
    rows = [{"model": c, "source": "measured here", **_plain(figures, c, columns)} for c in ours]
    cells = [{"Model": c, "Source": "measured here", **_cells(figures, c, columns)} for c in ours]
    for _, row in read_quoted(paper_tables / f"{name}.csv", printed).iterrows():
        source = f"paper, {row['source']}"
        rows.append({"model": row["model"], "source": source, **{f"quoted_{c.key}": row[c.key] for c in printed}})
        cells.append({"Model": row["model"], "Source": source, **_quoted_cells(row, printed)})
    order = [*(c.title for c in columns), *(f"{c.title} (paper)" for c in printed)]
    return Table(
        name, title, _frame(rows, ["model", "source", *_value_names(columns), *(f"quoted_{c.key}" for c in printed)]),
        _frame(cells, ["Model", "Source", *order]).fillna(EMPTY),
        (notes.INTERVALS, *notes.notes_of(name, columns, benchmarks, figures, lines)),
    )  # fmt: skip


def gap_table(figures: Figures, config: Config, paper_tables: Path, lines: Mapping[str, str]) -> Table:
    """Table 4: understanding, generation and their gap by every protocol; the CSV holds measured rows alone."""
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
    columns = [Quoted(side, side.capitalize(), 3) for side in sides]
    for _, row in read_quoted(paper_tables / "table4_gap.csv", columns).iterrows():
        source = f"paper's own ({row['source']})"
        cells.append({"Model": f"{row['model']} (quoted)", "Protocol": source, **_quoted_cells(row, columns)})
    order = list(cells[0]) + [f"{c.title} (paper)" for c in columns]
    shown_cells = _frame(cells, order).fillna(EMPTY)
    return Table(
        "table4_gap", "Table 4: the gap", _frame(rows, GAP_COLUMNS), shown_cells,
        notes.gap_notes(reported(config.benchmarks), figures, lines),
    )  # fmt: skip


def ablation_table(figures: Figures, config: Config, paper_tables: Path, lines: Mapping[str, str]) -> Table:
    """Table 5: every checkpoint, its change against base, and the paper's figures beside the matching rows."""
    quoted = read_quoted(paper_tables / "table5_ablation.csv", QUOTED_ABLATION, extra=("role",))
    paper_rows = {str(row["role"]): row for _, row in quoted.iterrows()}
    role_of = {name: role for role, name in roles(config).items() if role in paper_rows}
    benchmarks = reported(config.benchmarks)
    columns = columns_of(ABLATION, benchmarks, real=figures.real)
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
            row |= {f"quoted_{c.key}": paper[c.key] for c in QUOTED_ABLATION}
            cell |= {"Paper's row": f"{paper['model']} ({paper['source']})", **_quoted_cells(paper, QUOTED_ABLATION)}
        rows.append(row)
        cells.append(cell)
    names = ["checkpoint", "arm", *_value_names(columns), "quoted_model", "quoted_source"]
    names += [f"quoted_{c.key}" for c in QUOTED_ABLATION]
    paper_titles = ["Paper's row", *(f"{c.title} (paper)" for c in QUOTED_ABLATION)]
    return Table(
        "table5_ablation", "Table 5: ablation", _frame(rows, names),
        _frame(cells, ["Checkpoint", "Arm", *(c.title for c in columns), *paper_titles]).fillna(EMPTY),
        ("In parentheses the change against base. " + notes.PAIRED,
         *notes.notes_of(ABLATION, columns, benchmarks, figures, lines)),
    )  # fmt: skip


def extra_table(table: ExtraTable, figures: Figures, config: Config, line: str | None) -> Table | None:
    """A benchmark's own table: every checkpoint, with the change of the main column; None where that was not measured.

    Args:
        table: as the benchmark declares it.
        figures: the statistics.
        config: the experiment.
        line: what made the benchmark's figures.
    """
    main, *others = table.columns(figures.metrics)
    if not figures.measured(main.metric):
        return None
    others = [column for column in others if figures.measured(column.metric)]
    columns = [main, *others]
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    for checkpoint in figures.kept(("base", *config.checkpoints)):
        change = _change(figures.get(checkpoint, main.metric, scale=main.scale), main.digits)
        rows.append({"checkpoint": checkpoint, **_plain(figures, checkpoint, columns)})
        cells.append({"Checkpoint": checkpoint, table.change: change, **_cells(figures, checkpoint, columns)})
    order = ["Checkpoint", main.title, table.change, *(column.title for column in others)]
    values = _frame(rows, ["checkpoint", *_value_names(columns)])
    return Table(table.name, table.title, values, _frame(cells, order), notes.extra_notes(table, line))


def read_quoted(path: Path, columns: Sequence[Quoted], *, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The paper's figures; empty where the paper prints none.

    Raises:
        ArtifactError: the file is missing or lacks a column.
    """
    return read_table(path, ["model", "source", *extra, *(c.key for c in columns)])


def _arm(config: Config, checkpoint: str) -> str:
    if checkpoint == "base":
        return "no preference training"
    own = config.checkpoints[checkpoint]
    words = {
        "pair": "Pair-DPO",
        "product": "Pair-DPO, product",
        "understanding": "DPO, understanding only",
        "generation": "DPO, generation only",
    }
    arm = f"{words.get(own.objective, own.objective)}, iteration {iteration(config, checkpoint)}"
    if own.candidates is not None:
        arm = f"{arm}, {own.candidates} candidates"
    return arm


def _plain(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, float]:
    found: dict[str, float] = {}
    for column in columns:
        values = figures.get(checkpoint, column.metric, scale=column.scale)
        found |= {_value_name(column, field): value for field, value in values.items()}
    return found


def _cells(figures: Figures, checkpoint: str, columns: Sequence[Column]) -> dict[str, str]:
    return {c.title: _own(figures.get(checkpoint, c.metric, scale=c.scale), c.digits) for c in columns}


def _quoted_cells(row: pd.Series, columns: Sequence[Quoted]) -> dict[str, str]:
    return {f"{c.title} (paper)": number(row[c.key], c.digits) for c in columns}


def _own(found: dict[str, float], digits: int) -> str:
    return with_interval(found["value"], found["low"], found["high"], digits)


def _change(found: dict[str, float], digits: int) -> str:
    return with_interval(found["delta"], found["delta_low"], found["delta_high"], digits, signed=True)


def _value_name(column: Column, field: str) -> str:
    return column.key if field == "value" else f"{column.key}_{field}"


def _value_names(columns: Sequence[Column]) -> list[str]:
    return [_value_name(c, field) for c in columns for field in Figures.FIELDS]


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a table of exactly these columns; floats to 6 decimals, without "-0.0"."""
    frame = pd.DataFrame(list(rows), columns=list(columns))
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].round(6) + 0.0
    return frame
