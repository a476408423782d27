"""Image grids of the report: samples before and after (Figure 4), and examples of preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hermesflow.report.figures import FAINT, INK, STYLE, new_figure
from hermesflow.report.formatting import number

ACCEPTED = "#1B8A5A"
REJECTED = "#C0392B"
ROWS_PER_BLOCK = 7


@dataclass(frozen=True)
class Example:
    """One homologous preference: an image pair and a caption pair of the same thing."""

    caption: str
    image: np.ndarray
    """The real image, (H, W, 3) uint8."""
    chosen_image: np.ndarray
    rejected_image: np.ndarray
    image_scores: tuple[float, float]
    """Self-VQA scores of chosen and rejected, 0 to 1."""
    captions: tuple[str, str]
    """Chosen and rejected."""
    caption_scores: tuple[float, float]


def sample_figure(
    prompts: Sequence[str], checkpoints: Sequence[str], images: np.ndarray, accepted: np.ndarray | None
) -> Figure:
    """Figure 4: one row per prompt, one column per checkpoint, the same random numbers in a row.

    Args:
        prompts: P captions.
        checkpoints: C names.
        images: (P, C, H, W, 3) uint8.
        accepted: (P, C) bool, the judge finds the image to show the prompt exactly; None where there is no judge.
    """
    rows = min(len(prompts), ROWS_PER_BLOCK)
    blocks = -(-len(prompts) // rows)
    columns = 1 + len(checkpoints)
    with rc_context(STYLE):
        figure = new_figure(blocks * (1.5 + 1.05 * len(checkpoints)), 0.4 + 1.1 * rows)
        ratios = ([1.5] + [1.0] * len(checkpoints)) * blocks
        panels = figure.subplots(rows, columns * blocks, squeeze=False, gridspec_kw={"width_ratios": ratios})
        for axes in panels.flat:
            axes.set_axis_off()
        for i, prompt in enumerate(prompts):
            row, first = i % rows, columns * (i // rows)
            _text(panels[row, first], fill(prompt, 18))
            for j, checkpoint in enumerate(checkpoints):
                axes = panels[row, first + 1 + j]
                good = accepted is not None and bool(accepted[i, j])
                _picture(axes, images[i, j], ACCEPTED if good else FAINT, width=2.2 if good else 0.8)
                if good:
                    _badge(axes, good=True)
                if row == 0:
                    axes.set_title(checkpoint, loc="center")
        if accepted is not None:
            figure.supxlabel(
                "Green frame and tick: the judge finds exactly what the prompt says.", fontsize=8, color=INK
            )
        return figure


def before_after_figure(
    prompts: Sequence[str], checkpoints: Sequence[str], images: np.ndarray, accepted: np.ndarray | None
) -> Figure:
    """One column per prompt, the same random numbers in it: the first checkpoint's image above, the last one's below.

    Args:
        prompts: P captions.
        checkpoints: C names.
        images: (P, C, H, W, 3) uint8.
        accepted: (P, C) bool, the judge finds the image to show the prompt exactly; None where there is no judge.
    """
    titles = [fill(prompt, 20) for prompt in prompts]
    above = 0.15 * max(1 + title.count("\n") for title in titles)
    with rc_context(STYLE):
        figure = new_figure(0.4 + 1.4 * len(prompts), above + 0.35 + 1.4 * len(checkpoints))
        panels = figure.subplots(len(checkpoints), len(prompts), squeeze=False)
        for row, checkpoint in enumerate(checkpoints):
            for axes, pictures, verdicts in zip(
                panels[row], images, [None] * len(prompts) if accepted is None else accepted, strict=True
            ):
                good = None if verdicts is None else bool(verdicts[row])
                _picture(axes, pictures[row], FAINT if good is None else ACCEPTED if good else REJECTED, width=1.6)
                if good is not None:
                    _badge(axes, good=good)
            panels[row, 0].set_ylabel(checkpoint, fontweight="bold")
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, loc="center", fontsize=7.5, fontweight="normal")
        if accepted is not None:
            line = "Tick: the judge finds exactly what the prompt says; cross: it does not. First prompt of each kind."
            figure.supxlabel(fill(line, 20 * len(prompts)), fontsize=8, color=INK)
        return figure


def preference_figure(examples: Sequence[Example]) -> Figure:
    """Examples of homologous preferences, one per row, with the scores that made them.

    Args:
        examples: none leaves the titles alone, where pairs of one kind were trained on and no id had both.
    """
    titles = ("caption y", "image x", "chosen image", "rejected image", "chosen and rejected caption")
    with rc_context(STYLE):
        figure = new_figure(9.4, 0.5 + 1.24 * max(len(examples), 1))
        ratios = [1.5, 1.0, 1.0, 1.0, 4.0]
        panels = figure.subplots(max(len(examples), 1), 5, squeeze=False, gridspec_kw={"width_ratios": ratios})
        for axes, title in zip(panels[0], titles, strict=True):
            axes.set_title(title, loc="center")
            axes.set_axis_off()
        for row, example in zip(panels, examples, strict=False):
            for axes, ratio in zip(row, ratios, strict=True):
                axes.set_axis_off()
                axes.set_box_aspect(1 / ratio)  # all of one height, so that titles line up
            _text(row[0], fill(example.caption, 18))
            _picture(row[1], example.image, FAINT, width=0.8)
            pictures = (example.chosen_image, example.rejected_image)
            colors = (ACCEPTED, REJECTED)
            for axes, image, color, score in zip(row[2:4], pictures, colors, example.image_scores, strict=True):
                _picture(axes, image, color, width=2.0)
                axes.text(0.5, -0.05, f"self-VQA {number(score, 2)}", transform=axes.transAxes, ha="center", va="top",
                          fontsize=7.5, color=color)  # fmt: skip
            both = zip((0.72, 0.28), colors, example.captions, example.caption_scores, strict=True)
            for height, color, caption, score in both:
                row[4].text(0.03, height, number(score, 2), transform=row[4].transAxes, ha="left", va="center",
                            fontsize=8, color=color, fontweight="bold")  # fmt: skip
                row[4].text(0.16, height, fill(caption or "(empty)", 52), transform=row[4].transAxes, ha="left",
                            va="center", fontsize=8)  # fmt: skip
        return figure


def credit(figure: Figure, line: str | None) -> None:
    """Put a licence line below everything else."""
    if line:
        figure.supxlabel(f"{figure.get_supxlabel()}\n{line}".strip(), fontsize=8, color=INK)


def _picture(axes: Axes, image: np.ndarray, color: str, *, width: float) -> None:
    """Show pixels as squares, with a frame."""
    axes.set_axis_on()
    axes.grid(False)
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linewidth=width)


def _badge(axes: Axes, *, good: bool) -> None:
    """A tick or a cross on the lower right corner of the frame, where it hides nothing."""
    text, color = ("✓", ACCEPTED) if good else ("✗", REJECTED)
    badge = {"boxstyle": "circle,pad=0.18", "facecolor": color, "edgecolor": "white", "linewidth": 0.8}
    axes.text(0.985, 0.015, text, transform=axes.transAxes, ha="center", va="center", fontsize=6.5, color="white",
              fontweight="bold", bbox=badge, clip_on=False, zorder=5).set_in_layout(False)  # fmt: skip


def _text(axes: Axes, text: str) -> None:
    axes.text(1.0, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=8)
