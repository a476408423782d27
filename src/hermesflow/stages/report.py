"""Stage `report`: the paper's tables and figures from everything the other stages left, and the answer in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from hermesflow.config.experiment import BASE, Config
from hermesflow.core.errors import ArtifactError
from hermesflow.core.files import Layout, read_json, read_table, write_json
from hermesflow.core.images import as_tensor, read_images
from hermesflow.data.worlds.world import world_of
from hermesflow.evaluation.bootstrap import summarise
from hermesflow.report import audit, formatting, tables
from hermesflow.report.answer import answer, summary_of
from hermesflow.report.facts import benchmark_lines
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import arm_pairs, candidate_sweep, pair_chain

if TYPE_CHECKING:
    from hermesflow.models.backbone import ImageCodec

T = TypeVar("T")
PAPER_TABLES = Path(__file__).parents[3] / "config" / "paper_tables"
SAMPLE_ROWS = 14
EXAMPLES = 6
HISTORY = ("step", "loss")
PREFERENCES = (
    *("id", "chosen_caption", "rejected_caption", "chosen_caption_score", "rejected_caption_score"),
    *("chosen_image_score", "rejected_image_score"),
)


def run(config: Config, layout: Layout, *, seeds: Sequence[int] | None = None) -> None:
    """Write `report/tables`, `report/figures`, `report/summary.json` and `report/answer.md`.

    Args:
        config: the experiment.
        layout: where its artifacts are.
        seeds: run seeds to report on; the config's if None. Pictures are of the lowest.

    Raises:
        ArtifactError: an artifact of an earlier stage, or a file of the paper's figures, is missing or broken, or
            checkpoints cannot be compared: other prompts, scorers or protocols.
        ConfigError: the config has no Pair-DPO checkpoint to answer about.
    """
    seeds = sorted(seeds or config.seeds)
    names = (BASE, *config.checkpoints)
    folders = {name: {seed: layout.checkpoint(seed, name) / "evaluation" for seed in seeds} for name in names}
    benchmarks = {name: {seed: benchmark_folders(config, layout, seed, name) for seed in seeds} for name in names}
    made_by = benchmark_lines(benchmarks)
    settings = config.evaluation
    summary = summarise(
        folders, benchmarks, resamples=settings.bootstrap, confidence=settings.confidence, pairs=arm_pairs(config)
    )
    facts = summary_of(summary, config)
    judge = read_json(layout.judge)
    write_tables(config, layout, summary, judge, seeds, made_by)
    write_figures(config, layout, summary, seeds)
    write_json(layout.report / "summary.json", facts)
    formatting.write_text(layout.report / "answer.md", answer(summary, config, judge))


def benchmark_folders(config: Config, layout: Layout, seed: int, checkpoint: str) -> tuple[Path, ...]:
    """Folders of the real benchmarks of one checkpoint and seed; none where the config has no such section."""
    if config.benchmarks is None:
        return ()
    return tuple(layout.benchmark(seed, checkpoint, name) for name in config.benchmarks.names)


def write_tables(
    config: Config,
    layout: Layout,
    summary: pd.DataFrame,
    judge: Mapping[str, Any],
    seeds: Sequence[int],
    made_by: Mapping[str, str],
) -> None:
    """The paper's tables and those of benchmarks as CSV, Markdown, LaTeX; trust and statistics as CSV and Markdown."""
    folder = layout.report / "tables"
    for table in tables.all_tables(summary, config, PAPER_TABLES, made_by):
        formatting.write(table, folder)
    agreement = {seed: read_json(layout.checkpoint(seed, BASE) / "scores" / "agreement.json") for seed in seeds}
    counts = {
        name: {seed: read_json(layout.checkpoint(seed, name) / "preferences" / "counts.json") for seed in seeds}
        for name in config.checkpoints
    }
    path = layout.root / "data" / "rejected.csv"
    read_table(path, ["id", "record", "reason"])  # whole, or an error
    rejected = pd.read_csv(path, dtype=str, keep_default_na=False)  # `007` is an id
    for table in (
        audit.agreement_table(agreement),
        audit.judge_table(judge, world_of(config.data).reading),
        audit.preferences_table(counts),
        audit.rejected_table(rejected, _data_note(layout, seeds[0])),
    ):
        formatting.write(table, folder, latex=False)
    formatting.write(audit.statistics_table(summary), folder, latex=False)


def _data_note(layout: Layout, seed: int) -> str:
    """What there is to say of pairs of real images; nothing of a small world's."""
    folder = layout.root / "data"
    if not (folder / "selection.json").is_file():
        return ""
    from hermesflow.models.backbone import model_without_weights

    model = model_without_weights(layout.checkpoint(seed, BASE) / "model")
    cut = {
        split: sum(model.is_cut(list(_column(layout.data(split), "caption").values())))
        for split in ("base", "pairs", "prompts", "gap")
    }
    questions = read_table(folder / "questions.csv", ["from", "outcome", "questions"])
    return audit.data_note(read_json(folder / "selection.json"), questions, cut)


def write_figures(config: Config, layout: Layout, summary: pd.DataFrame, seeds: Sequence[int]) -> None:
    """All figures as PNG; pictures of samples and preferences are of the first seed."""
    from hermesflow.report import figures

    folder = layout.report / "figures"
    known = Figures(summary)
    chain = known.checkpoints_in((BASE, *pair_chain(config)))
    quoted = read_table(PAPER_TABLES / "table4_gap.csv", ["model", "understanding", "generation", "gap"])
    figures.save(figures.gap_figure(known, chain, quoted), folder / "fig2b_gap.png")
    figures.save(figures.candidates_figure(known, candidate_sweep(config)), folder / "fig6_candidates.png")
    histories = {
        name: [read_table(layout.checkpoint(seed, name) / "model" / "history.csv", HISTORY) for seed in seeds]
        for name in config.checkpoints
    }
    figures.save(figures.training_figure(histories), folder / "training_curves.png")
    _write_pictures(config, layout, chain, seeds[0])


def _write_pictures(config: Config, layout: Layout, checkpoints: Sequence[str], seed: int) -> None:
    """Figure 4, before and after, and the preference examples: all need the image tokenizer."""
    from hermesflow.models.backbone import load_codec
    from hermesflow.report import figures, grids

    codec = load_codec(layout.tokenizer, device="cpu")
    samples = {name: read_images(layout.checkpoint(seed, name) / "evaluation" / "samples.npy") for name in checkpoints}
    known, world, path = samples[BASE][0], world_of(config.data), layout.data("prompts")
    captions, kind_of = (_column(path, column) for column in ("caption", "kind"))
    kinds = [_entry(kind_of, pair_id, path) for pair_id in known]
    for name, new_figure, ids, names in (
        ("fig4_samples", grids.sample_figure, spread(known, SAMPLE_ROWS), checkpoints),
        ("before_after", grids.before_after_figure, first_of_each(known, kinds), (BASE, checkpoints[-1])),
    ):
        images = _decode(codec, np.stack([rows_of(*samples[one], ids)[:, 0] for one in names], axis=1))
        prompts, accepted = [_entry(captions, pair_id, path) for pair_id in ids], None
        if any(world.parse_caption(prompt) for prompt in prompts):
            scenes = [world.read_images(row) for row in images]
            accepted = np.array([[world.accepts(s, p) for s in row] for row, p in zip(scenes, prompts, strict=True)])
        figure = new_figure(prompts, names, images, accepted)
        grids.credit(figure, world.credit)
        figures.save(figure, layout.report / "figures" / f"{name}.png")

    examples = _examples(layout, codec, layout.checkpoint(seed, checkpoints[1]) / "preferences")
    figure = grids.preference_figure(examples)
    grids.credit(figure, world.credit)
    figures.save(figure, layout.report / "figures" / "preference_examples.png")


def _examples(layout: Layout, codec: ImageCodec, folder: Path) -> list[Any]:
    """Preferences spread evenly over those a checkpoint was trained on, with their real images and captions."""
    from hermesflow.data.pairs import images_of, read_pairs
    from hermesflow.report.grids import Example

    table = read_table(folder / "preferences.parquet", PREFERENCES)
    records = table.dropna(subset=list(PREFERENCES)).to_dict("records")  # both kinds are shown
    if not records:
        return []
    by_id = {str(row["id"]): row for row in records}
    ids = spread(list(by_id), EXAMPLES)
    path = layout.data("pairs")
    pairs = read_pairs(path)
    place = {pair_id: i for i, pair_id in enumerate(pairs["id"])}
    rows = pairs.select([_entry(place, pair_id, path) for pair_id in ids])
    generated = _decode(codec, rows_of(*read_images(folder / "images.npy"), ids))
    examples = []
    for pair_id, caption, image, pictures in zip(ids, rows["caption"], images_of(rows), generated, strict=True):
        row = by_id[pair_id]
        examples.append(
            Example(
                caption=caption,
                image=image,
                chosen_image=pictures[0],
                rejected_image=pictures[1],
                image_scores=(row["chosen_image_score"], row["rejected_image_score"]),
                captions=(row["chosen_caption"], row["rejected_caption"]),
                caption_scores=(row["chosen_caption_score"], row["rejected_caption_score"]),
            )
        )
    return examples


def spread(items: Sequence[str], count: int) -> list[str]:
    """At most `count` items at equal distances, in their order."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def first_of_each(ids: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The first id of each kind, in their order; the first `EXAMPLES` where all are of one kind."""
    first: dict[str, str] = {}
    for one, kind in zip(ids, kinds, strict=True):
        first.setdefault(kind, one)
    return list(first.values()) if len(first) > 1 else list(ids[:EXAMPLES])


def rows_of(stored_ids: Sequence[str], images: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """Rows of an array of images by id.

    Args:
        stored_ids: N ids of the rows of `images`.
        images: (N, n, *generated).
        ids: M wanted ids.

    Returns:
        (M, n, *generated).

    Raises:
        ArtifactError: an id is not there.
    """
    place = {pair_id: i for i, pair_id in enumerate(stored_ids)}
    missing = [pair_id for pair_id in ids if pair_id not in place]
    if missing:
        raise ArtifactError(
            f"no images of {len(missing)} ids, first `{missing[0]}`: they were made from other data. {_REDO}"
        )
    return np.asarray(images)[[place[pair_id] for pair_id in ids]]


def _decode(codec: ImageCodec, images: np.ndarray) -> np.ndarray:
    """(N, n, *generated) -> (N, n, H, W, 3) uint8."""
    pixels = codec.to_pixels(as_tensor(images).flatten(0, 1))
    return pixels.reshape(*images.shape[:2], *pixels.shape[1:])


def _column(path: Path, column: str) -> dict[str, str]:
    table = read_table(path, ["id", column])
    return dict(zip(table["id"].astype(str), table[column].astype(str), strict=True))


def _entry(known: Mapping[str, T], pair_id: str, path: Path) -> T:
    if pair_id not in known:
        raise ArtifactError(f"{path}: has no pair `{pair_id}`, which an evaluation or a preference is about. {_REDO}")
    return known[pair_id]


_REDO = "Run snakemake again so that all artifacts come from one config."
