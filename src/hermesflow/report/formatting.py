"""One report table in its forms: plain numbers as CSV, text with intervals as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from hermesflow.core.files import atomic, write_table

EMPTY = "–"
QUOTED_HEADING = "Quoted from the paper, camera-ready"
"""Stands above the quoted rows of a table."""


@dataclass(frozen=True)
class Table:
    """A table of the report: measured rows, then the rows quoted from the paper under a heading of their own."""

    name: str
    """File name without suffix."""
    title: str
    values: pd.DataFrame
    """Plain numbers, for the CSV."""
    cells: pd.DataFrame
    """Measured rows as formatted text, for Markdown and LaTeX."""
    notes: tuple[str, ...] = ()
    """Sentences under the table: what is empty and why, what is quoted."""
    quoted: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Quoted rows as formatted text, in the columns of `cells`; none by default."""


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A rounded number; never "-0.0"; a missing one is the empty mark."""
    if pd.isna(value):
        return EMPTY
    rounded = round(float(value), digits) + 0.0
    return f"{rounded:{'+' if signed else ''}.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int, *, signed: bool = False) -> str:
    """Formats a value with its interval, e.g. `0.74 [0.70, 0.78]`; without brackets if an end is NaN."""
    text = number(value, digits, signed=signed)
    if pd.isna(low) or pd.isna(high):
        return text
    return f"{text} [{number(low, digits, signed=signed)}, {number(high, digits, signed=signed)}]"


def change(statistic: Mapping[str, float], digits: int) -> str:
    """Formats the change against base of one of `Figures.get`, with its interval."""
    return with_interval(statistic["delta"], statistic["delta_low"], statistic["delta_high"], digits, signed=True)


def to_markdown(table: Table) -> str:
    """Title, pipe table and notes."""
    heading = f"| **{QUOTED_HEADING}** |" + " |" * (table.cells.shape[1] - 1)
    body = _grid(table, "pipe", heading, above=2) if len(table.cells) else "(no rows)"
    notes = "".join(f"\n- {note}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n" + (f"{notes}\n" if notes else "")


def to_latex(table: Table) -> str:
    """A booktabs table that stands alone in a document with `booktabs` and `graphicx`."""
    heading = f"\\midrule\n\\multicolumn{{{table.cells.shape[1]}}}{{l}}{{\\emph{{{QUOTED_HEADING}}}}} \\\\"
    notes = "".join(f"\n\n{_escape(note)}" for note in table.notes)
    label = table.name.replace("_", "-")
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_escape(table.title)}}}\n\\label{{tab:{label}}}\n"
        f"\\resizebox{{\\linewidth}}{{!}}{{%\n{_grid(table, 'latex_booktabs', heading, above=4)}\n}}\n"
        f"\\par\\footnotesize\\raggedright{notes}\n\\end{{table}}\n"
    )


def write(table: Table, folder: Path, *, latex: bool = True) -> list[Path]:
    """Write `{name}.csv`, `{name}.md` and, if asked, `{name}.tex`; the paths written."""
    paths = [folder / f"{table.name}.csv", folder / f"{table.name}.md"]
    write_table(paths[0], table.values)
    write_text(paths[1], to_markdown(table))
    if latex:
        paths.append(folder / f"{table.name}.tex")
        write_text(paths[2], to_latex(table))
    return paths


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain(frame: pd.DataFrame, digits: int = 4) -> pd.DataFrame:
    """Every cell as text: floats rounded to `digits`, missing ones as the empty mark."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return number(value, digits)
        return EMPTY if pd.isna(value) else str(value)  # type: ignore[call-overload]

    return pd.DataFrame({column: [text(v) for v in frame[column]] for column in frame.columns}, dtype=object)


def _grid(table: Table, style: str, heading: str, *, above: int) -> str:
    """Returns all rows in one grid, with `heading` above the quoted ones; `above` lines stand before the first row."""
    headers: Sequence[str] = [str(c) for c in table.cells.columns]
    rows = [*table.cells.to_numpy().tolist(), *table.quoted.to_numpy().tolist()]
    text = tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True, stralign="left")
    if table.quoted.empty:
        return text
    lines = text.splitlines()
    lines.insert(above + len(table.cells), heading)
    return "\n".join(lines)


def _escape(text: str) -> str:
    for special in "&%$#_{}":
        text = text.replace(special, "\\" + special)
    return text.replace("^", "\\^{}").replace("~", "\\~{}")
