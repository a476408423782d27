"""Charts of the report: the gap (Figure 2b), the effect of n (Figure 6), training curves.

Each function takes plain data and returns a matplotlib figure; `save` writes it without dates or versions, so the
same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hermesflow.core.files import atomic
from hermesflow.report.formatting import number
from hermesflow.report.lookup import Figures

DPI = 200
UNDERSTANDING = "#3B6FB6"
GENERATION = "#E08A2E"
INK = "#2B2B2B"
FAINT = "#8A8A8A"
CYCLE = ("#4C4C4C", "#1B9E77", "#7570B3", "#D95F02", "#E7298A", "#66A61E", "#A6761D", "#1F78B4", "#B2DF8A", "#6A3D9A")
STYLE: Any = {
    **{"font.family": "DejaVu Sans", "font.size": 8.5, "text.color": INK, "axes.labelcolor": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.linewidth": 0.8},
    **{"axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.axisbelow": True},
    **{"xtick.color": INK, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 2.5, "hatch.linewidth": 0.9},
    **{"axes.grid": True, "axes.grid.axis": "y", "grid.color": "#E6E6E6", "grid.linewidth": 0.8},
    **{"legend.frameon": False, "figure.facecolor": "white", "figure.dpi": DPI},
}


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of this size in inches that belongs to no window."""
    figure = Figure(figsize=(width, height), layout="constrained", **options)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, without the metadata that would differ between machines."""
    with rc_context(STYLE), atomic(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", metadata={"Software": None})


def gap_figure(figures: Figures, checkpoints: Sequence[str], quoted: pd.DataFrame) -> Figure:
    """Figure 2b: understanding and generation of each checkpoint by every protocol; the paper's bars hatched, apart.

    The part of both bars where the same questions are right on both sides is darker.

    Args:
        figures: the statistics.
        checkpoints: base and the chain.
        quoted: rows of the paper's Table 4: model, understanding, generation, gap.
    """
    with rc_context(STYLE):
        protocols = figures.protocols()
        figure = new_figure(10.0 + 3.5 * max(0, len(protocols) - 2), 3.5)
        widths = [len(checkpoints)] * len(protocols) + [len(quoted)]
        panels = figure.subplots(1, len(widths), sharey=True, gridspec_kw={"width_ratios": widths})
        titles = {
            "paper": "Measured, paper's protocol",
            "same-judge": "Measured, same judge on both sides",
            "self": "Measured, own answers on both sides",
        }
        for axes, protocol in zip(panels, protocols, strict=False):
            sides = {
                side: [figures.get(c, f"gap/{protocol}/{side}") for c in checkpoints]
                for side in ("understanding", "generation", "gap", "both_right")
            }
            _gap_bars(axes, checkpoints, sides, hatch=None)
            axes.set_title(titles[protocol])
        nan = float("nan")
        sides = {
            side: [{"value": float(v), "low": nan, "high": nan} for v in quoted[side]]
            for side in ("understanding", "generation", "gap")
        }
        _gap_bars(panels[-1], [str(m) for m in quoted["model"]], sides, hatch="////")
        panels[-1].set_title("Quoted from the paper")
        panels[0].set_ylabel("share of questions answered right")
        panels[0].set_ylim(0, 1.1)
        panels[0].set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return figure


def _gap_bars(axes: Axes, names: Sequence[str], sides: Mapping[str, list[dict[str, float]]], hatch: str | None) -> None:
    """Two bars per name with their intervals, and the gap written above."""
    width = 0.38
    for offset, side, color in ((-width / 2, "understanding", UNDERSTANDING), (width / 2, "generation", GENERATION)):
        places = [i + offset for i in range(len(names))]
        heights = [one["value"] for one in sides[side]]
        outlined = {"facecolor": "white", "edgecolor": color, "hatch": hatch}
        face: dict[str, Any] = {"color": color} if hatch is None else outlined
        axes.bar(places, heights, width * 0.94, label=side, linewidth=1.0, **face)
        if hatch is None:
            axes.errorbar(places, heights, yerr=_errors(sides[side]), fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    both = sides.get("both_right", [])
    values = [one["value"] for one in both]
    if any(value == value for value in values):
        axes.bar(
            range(len(names)),
            values,
            1.94 * width,
            label="both right, same question",
            color=INK,
            alpha=0.3,
            linewidth=0,
        )
        axes.errorbar(range(len(names)), values, yerr=_errors(both), fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    for i, gap in enumerate(sides["gap"]):
        tops = [sides[side][i] for side in ("understanding", "generation")]
        top = max(max(t["value"], t["high"]) if t["high"] == t["high"] else t["value"] for t in tops) + 0.03
        axes.plot([i - width / 2, i - width / 2, i + width / 2, i + width / 2], [top - 0.012, top, top, top - 0.012],
                  color=INK, linewidth=0.8)  # fmt: skip
        text = f"gap {number(gap['value'], 3)}"
        axes.text(i, top + 0.012, text, ha="center", va="bottom", fontsize=7.5, fontweight="bold")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)


def candidates_figure(figures: Figures, sweep: Mapping[int, str]) -> Figure:
    """Figure 6: change of both skills against base for one iteration with n candidates, with paired intervals.

    Args:
        figures: the statistics.
        sweep: n to checkpoint, ascending.
    """
    judge = figures.protocol
    skills: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
        ("Understanding", ((f"gap/{judge}/understanding", "questions on real images"), ("pope/accuracy", "POPE"))),
        ("Generation", ((f"gap/{judge}/generation", "questions on generated images"), ("geneval/overall", "GenEval"))),
    )
    skills = tuple((skill, tuple(m for m in metrics if figures.measured(m[0]))) for skill, metrics in skills)
    tones = {"Understanding": (UNDERSTANDING, "#9DBBE3"), "Generation": (GENERATION, "#F2C48F")}
    with rc_context(STYLE):
        figure = new_figure(7.2, 3.1)
        panels = figure.subplots(1, 2, sharey=True)
        places = range(len(sweep))
        for axes, (skill, metrics) in zip(panels, skills, strict=True):
            for shift, color, marker, (metric, label) in zip((-0.05, 0.05), tones[skill], "os", metrics, strict=False):
                statistics = [figures.get(checkpoint, metric) for checkpoint in sweep.values()]
                values = [one["delta"] for one in statistics]
                errors = _errors([{k: one[f"delta{e}"] for k, e in _ENDS} for one in statistics])
                axes.errorbar([p + shift for p in places], values, yerr=errors, color=color, marker=marker,
                              markersize=5, capsize=2.5, linewidth=1.6, elinewidth=1.0, label=label)  # fmt: skip
            axes.axhline(0, color=FAINT, linewidth=1.0, linestyle="--")
            axes.set_title(skill)
            axes.set_xticks(places, [str(n) for n in sweep])
            axes.set_xlim(-0.4, len(sweep) - 0.6)
            axes.set_xlabel("candidates per prompt, n")
            axes.legend(loc="best")
        panels[0].set_ylabel("change against base")
        return figure


def training_figure(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Loss, reward margin and accuracy of both terms over the steps of every trained checkpoint.

    Args:
        histories: checkpoint to one history per seed (`model/history.csv`); curves are means over seeds, smoothed
            over a twentieth of the run, the unsmoothed mean faint behind.
    """
    quantities = (
        ("loss/{}", "loss, nats"), ("rewards/margins/{}", "reward margin"), ("rewards/accuracies/{}", "accuracy"),
    )  # fmt: skip
    with rc_context(STYLE):
        figure = new_figure(10.0, 5.2)
        panels = figure.subplots(2, 3, sharex=True)
        for row, (term, what) in enumerate((("t2i", "image pairs"), ("mmu", "caption pairs"))):
            for axes, (column, label) in zip(panels[row], quantities, strict=True):
                name = column.format(term)
                for color, (checkpoint, runs) in zip(_colors(len(histories)), histories.items(), strict=True):
                    _curve(axes, runs, name, checkpoint, color)
                axes.set_title(f"{label.split(',')[0].capitalize()}, {what}")
                axes.set_ylabel(label)
        for axes in panels[:, 0]:
            axes.axhline(log(2), color=FAINT, linewidth=0.9, linestyle="--")
            axes.annotate("ln 2", (1, log(2)), xycoords=("axes fraction", "data"), fontsize=7, color=FAINT,
                          ha="right", va="bottom")  # fmt: skip
        for axes in panels[:, 1]:
            axes.axhline(0, color=FAINT, linewidth=0.9, linestyle="--")
        for axes in panels[:, 2]:
            axes.axhline(0.5, color=FAINT, linewidth=0.9, linestyle="--")
        for axes in panels[1]:
            axes.set_xlabel("step")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 8))
        return figure


def _curve(axes: Axes, runs: Sequence[pd.DataFrame], column: str, label: str, color: str) -> None:
    """Mean over seeds, faint, and smoothed, clear; nothing where a term was not recorded."""
    known = [run.set_index("step")[column] for run in runs if column in run]
    if not known:
        return
    mean = pd.concat(known, axis=1).mean(axis=1)
    smooth = mean.rolling(max(1, len(mean) // 20), min_periods=1).mean()
    axes.plot(mean.index, mean, color=color, linewidth=0.6, alpha=0.22)
    axes.plot(smooth.index, smooth, color=color, linewidth=1.4, label=label)


_ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))


def _errors(statistics: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Lengths of the lower and upper error bars; never negative, none where there is no interval."""
    lower = [max(0.0, one["value"] - one["low"]) for one in statistics]
    upper = [max(0.0, one["high"] - one["value"]) for one in statistics]
    return [lower, upper]


def _colors(count: int) -> list[str]:
    return [CYCLE[i % len(CYCLE)] for i in range(count)]
