"""Figures: they show what they were given, and the same data give the same bytes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hermesflow.report import figures, grids
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import candidate_sweep
from tests.support.report_world import GAPS, PAPER_TABLES, make_summary, micro

CHAIN = ("base", "pair-1", "pair-2", "pair-3")


@pytest.fixture(scope="module")
def known() -> Figures:
    return Figures(make_summary())


@pytest.fixture(scope="module")
def quoted() -> pd.DataFrame:
    return pd.read_csv(PAPER_TABLES / "table4_gap.csv")


def heights(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def test_gap_bars_are_the_figures_and_only_quoted_ones_are_hatched(known, quoted):
    paper, same, theirs = figures.gap_figure(known, CHAIN, quoted).axes
    both = [GAPS[c][1] - 0.1 for c in CHAIN]  # as tests/support makes it
    assert heights(same) == pytest.approx([GAPS[c][0] for c in CHAIN] + [GAPS[c][1] for c in CHAIN] + both)
    assert heights(paper)[0] == pytest.approx(0.88)
    assert heights(theirs) == pytest.approx([*quoted["understanding"], *quoted["generation"]])
    assert all(bar.get_hatch() for bar in theirs.patches)
    assert not any(bar.get_hatch() for bar in (*paper.patches, *same.patches))
    assert [t.get_text() for t in same.texts] == ["gap 0.128", "gap 0.076", "gap 0.062", "gap 0.050"]
    assert [t.get_text() for t in same.get_xticklabels()] == list(CHAIN)


def test_both_right_is_the_darker_part_of_both_bars(known, quoted):
    _, same, theirs = figures.gap_figure(known, CHAIN, quoted).axes
    understanding, generation, both = (same.patches[i] for i in (0, len(CHAIN), 2 * len(CHAIN)))
    assert both.get_x() <= understanding.get_x() + 0.02 and both.get_x() + both.get_width() >= generation.get_x() + 0.33
    assert [text.get_text() for text in same.figure.legends[0].get_texts()][-1] == "both right, same question"
    summary = make_summary()
    without = Figures(summary[~summary["metric"].str.endswith("both_right")])
    _, same, theirs = figures.gap_figure(without, CHAIN, quoted).axes
    assert len(same.patches) == len(theirs.patches) == 2 * len(CHAIN)


def test_intervals_are_drawn_as_error_bars(known, quoted):
    _, same, theirs = figures.gap_figure(known, CHAIN, quoted).axes
    (segment, *_) = same.containers[1].lines[2][0].get_segments()
    assert segment[:, 1].tolist() == pytest.approx([0.85, 0.89])
    assert len(theirs.containers) == 2  # bars alone: the paper has no intervals


def test_candidates_show_changes_by_n(known):
    understanding, generation = figures.candidates_figure(known, candidate_sweep(micro())).axes
    assert [t.get_text() for t in generation.get_xticklabels()] == ["2", "4", "8"]
    line = generation.containers[0].lines[0]
    assert line.get_ydata().tolist() == pytest.approx([0.018, 0.036, 0.051])
    assert understanding.get_xlabel() == "candidates per prompt, n"


def history(offset: float) -> pd.DataFrame:
    table = pd.DataFrame({"step": np.arange(1, 11)})
    for term in ("t2i", "mmu"):
        table[f"loss/{term}"] = 0.69 - 0.01 * table["step"] + offset
        table[f"rewards/margins/{term}"] = 0.1 * table["step"] + offset
        table[f"rewards/accuracies/{term}"] = 0.5 + offset
    return table


def test_training_curves_are_means_over_seeds():
    figure = figures.training_figure({"pair-1": [history(0.0), history(0.2)], "und-1": [history(0.1)]})
    assert len(figure.axes) == 6
    smooth = next(line for line in figure.axes[1].get_lines() if line.get_label() == "pair-1")
    assert smooth.get_ydata().tolist() == pytest.approx((0.1 * np.arange(1, 11) + 0.1).tolist())
    assert {line.get_label() for line in figure.axes[0].get_lines()} >= {"pair-1", "und-1"}


def test_a_term_that_was_not_recorded_leaves_its_panel_empty():
    lonely = history(0.0).drop(columns=["loss/mmu"])
    figure = figures.training_figure({"gen-1": [lonely]})
    assert not [line for line in figure.axes[3].get_lines() if line.get_label() == "gen-1"]


def test_samples_mark_what_the_judge_accepts():
    images = np.random.default_rng(0).integers(0, 256, size=(3, 2, 8, 8, 3), dtype=np.uint8)
    accepted = np.array([[True, False], [False, False], [True, True]])
    figure = grids.sample_figure(["a circle", "a cross", "a square"], ("base", "pair-1"), images, accepted)
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 6
    for axes, image, good in zip(pictures, images.reshape(6, 8, 8, 3), accepted.ravel(), strict=True):
        assert np.array_equal(axes.images[0].get_array(), image)
        assert axes.images[0].get_interpolation() == "nearest"
        assert ("✓" in [t.get_text() for t in axes.texts]) == good
    assert [axes.get_title() for axes in pictures[:2]] == ["base", "pair-1"]


def test_many_prompts_go_into_blocks_and_none_is_lost():
    count = grids.ROWS_PER_BLOCK + 2
    images = np.zeros((count, 1, 4, 4, 3), dtype=np.uint8)
    prompts = [f"prompt {i}" for i in range(count)]
    figure = grids.sample_figure(prompts, ("base",), images, np.zeros((count, 1), dtype=bool))
    shown = [t.get_text() for axes in figure.axes for t in axes.texts]
    assert sorted(shown) == sorted(prompts)


def test_before_and_after_have_their_prompt_and_the_judge_s_verdict():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3), dtype=np.uint8)
    accepted = np.array([[False, True], [True, True], [False, False]])
    figure = grids.before_after_figure(["a cat", "a dog", "a cow"], ("base", "pair-3"), images, accepted)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in above] == ["a cat", "a dog", "a cow"]
    assert (above[0].get_ylabel(), below[0].get_ylabel()) == ("base", "pair-3")
    for row, panels in enumerate((above, below)):
        for axes, pictures, verdicts in zip(panels, images, accepted, strict=True):
            assert np.array_equal(axes.images[0].get_array(), pictures[row])
            assert [t.get_text() for t in axes.texts] == ["✓" if verdicts[row] else "✗"]
    unjudged = grids.before_after_figure(["a cat"], ("base", "pair-3"), images[:1], None)
    assert not [t for axes in unjudged.axes for t in axes.texts]
    assert unjudged.get_supxlabel() == ""


def test_the_licence_line_stands_below_all_other_words():
    images = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    figure = grids.before_after_figure(["a cat"], ("base", "pair-3"), images, np.zeros((1, 2), dtype=bool))
    grids.credit(figure, None)
    before = figure.get_supxlabel()
    grids.credit(figure, "Graphics: somebody (CC BY 4.0)")
    assert figure.get_supxlabel() == f"{before}\nGraphics: somebody (CC BY 4.0)" and before.startswith("Tick")
    pairs = grids.preference_figure([example()])
    grids.credit(pairs, "Graphics: somebody (CC BY 4.0)")
    assert pairs.get_supxlabel() == "Graphics: somebody (CC BY 4.0)"


def example() -> grids.Example:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    return grids.Example("a circle", image, image + 10, image + 20, (0.9, 0.25), ("a circle", ""), (1.0, 0.5))


def test_preferences_show_both_sides_with_their_scores():
    figure = grids.preference_figure([example(), example()])
    texts = [t.get_text() for axes in figure.axes[:5] for t in axes.texts]
    assert texts == ["a circle", "self-VQA 0.90", "self-VQA 0.25", "1.00", "a circle", "0.50", "(empty)"]
    chosen, rejected = figure.axes[2], figure.axes[3]
    assert chosen.images[0].get_array().max() == 10 and rejected.images[0].get_array().max() == 20


def test_saved_figures_are_the_same_bytes_and_carry_no_metadata(tmp_path, known):
    for name in ("a", "b"):
        figures.save(figures.candidates_figure(known, candidate_sweep(micro())), tmp_path / f"{name}.png")
        figures.save(grids.preference_figure([example()]), tmp_path / f"{name}-pairs.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a-pairs.png").read_bytes() == (tmp_path / "b-pairs.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) <= {"dpi"}
        assert image.size == (1440, 620)
