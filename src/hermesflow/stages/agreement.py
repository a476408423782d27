"""Stage `agreement`: do the base model's preference scores rank candidates as the independent judge does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hermesflow.config.experiment import BASE, Config
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, read_table, write_json
from hermesflow.core.images import as_tensor
from hermesflow.core.progress import Progress
from hermesflow.data.pairs import read_pairs
from hermesflow.data.worlds.questions import Question
from hermesflow.data.worlds.world import World, world_of
from hermesflow.models.backbone import load_codec, load_model
from hermesflow.models.sentence_encoder import SentenceEncoder, load_choice_encoder, load_encoder
from hermesflow.selfplay.scoring import CAPTION_MEASURES, VQA_METHODS
from hermesflow.selfplay.sharding import IMAGE_TYPES, pairs_per_batch
from hermesflow.stages.score import questions_of_row, read_candidates, score_captions, score_images

Agreement = dict[str, float | int | None]


def run(config: Config, layout: Layout, *, seed: int) -> None:
    """Write `scores/agreement.json` of the base model on the first `scoring.agreement_pairs` pairs.

    Raises:
        ArtifactError: candidates or scores of the base model are missing.
        DataError: a caption that the judge of the world cannot read.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    pairs = read_pairs(layout.data("pairs")).remove_columns("image")
    rows = {row["id"]: row for row in pairs.select(range(min(config.scoring.agreement_pairs, len(pairs))))}
    folder = layout.checkpoint(seed, BASE)
    if not rows:
        write_json(folder / "scores" / "agreement.json", {"captions": {}, "images": {}, "pairs": 0})
        return
    captions = {id_: row["caption"] for id_, row in rows.items()}
    world = world_of(config.data)
    _check_readable(layout.data("pairs"), captions, world)
    questions = {id_: questions_of_row(row) for id_, row in rows.items()}
    encoder = load_encoder(config.scoring.encoder, device=config.runtime.device)
    choices = load_choice_encoder(config.scoring, encoder, device=config.runtime.device)
    captions_of, images_by_id = read_candidates(folder / "candidates", list(pairs["id"]))
    agreement = {
        "captions": caption_agreement(
            pd.concat([captions_of[id_] for id_ in rows]),
            captions,
            encoder=encoder,
            world=world,
        ),
        "images": image_agreement(
            vqa_scores(config, layout, seed=seed, images_by_id=images_by_id, questions=questions, encoder=choices),
            judged_images(config, layout, images_by_id=images_by_id, captions=captions, questions=questions),
            list(rows),
        ),
        "pairs": len(rows),
    }
    write_json(folder / "scores" / "agreement.json", agreement)


def caption_agreement(
    candidates: pd.DataFrame, captions: Mapping[str, str], *, encoder: SentenceEncoder, world: World
) -> dict[str, Agreement]:
    """Agreement of every caption measure with the share of facts (F1) that a caption shares with the true one.

    Args:
        candidates: columns id, candidate, caption.
        captions: true caption by pair id.
        encoder: for the measure `embedding`.
        world: whose captions they are.

    Returns:
        `rank_agreement` by measure.
    """
    table = candidates.copy()
    table["truth"] = [
        world.caption_facts_f1(caption, captions[id_])
        for id_, caption in zip(table["id"], table["caption"], strict=True)
    ]
    for measure in CAPTION_MEASURES:
        table[measure] = score_captions(table, captions, measure=measure, encoder=encoder)["score"].to_numpy()
    of_pair = by_pair(table, list(captions))
    truths = [group["truth"].to_numpy() for group in of_pair]
    return {m: rank_agreement([group[m].to_numpy() for group in of_pair], truths) for m in CAPTION_MEASURES}


def image_agreement(
    scores: Mapping[str, pd.DataFrame], judged: pd.DataFrame, ids: Sequence[str]
) -> dict[str, dict[str, Agreement]]:
    """Agreement of every self-VQA method with the judge.

    Args:
        scores: columns of `IMAGE_TYPES` by method.
        judged: columns id, candidate, share (of the questions that the judge answers as the caption does) and
            accepted (1.0 if it accepts the image as the caption's, else 0.0).
        ids: the pairs.

    Returns:
        `rank_agreement` by method, then by `share` and `accepted`.
    """
    result = {}
    for method, table in scores.items():
        of_pair = by_pair(table.merge(judged, on=["id", "candidate"], validate="1:1"), ids)
        self_scores = [group["score"].to_numpy() for group in of_pair]
        result[method] = {
            truth: rank_agreement(self_scores, [group[truth].to_numpy() for group in of_pair])
            for truth in ("share", "accepted")
        }
    return result


def vqa_scores(
    config: Config,
    layout: Layout,
    *,
    seed: int,
    images_by_id: Mapping[str, np.ndarray],
    questions: Mapping[str, Sequence[Question]],
    encoder: SentenceEncoder,
) -> dict[str, pd.DataFrame]:
    """Self-VQA scores by every method: the configured one as stage `score` left it, the others made here."""
    folder = layout.checkpoint(seed, BASE)
    tables = {
        config.scoring.vqa_method: read_table(
            folder / "scores" / "images.parquet", list(IMAGE_TYPES), numbers=["score"]
        )
    }
    runtime = config.runtime
    model = load_model(folder / "model", device=runtime.device, precision=runtime.inference_precision)
    codec = cache(partial(load_codec, layout.tokenizer, device=runtime.device))  # read once, and only if asked for
    ids = list(questions)
    size = pairs_per_batch(config)
    for method in VQA_METHODS:
        if method in tables:
            continue
        progress = Progress(len(ids), f"self-VQA by {method}, seed {seed}", "pair")
        parts = []
        for start in range(0, len(ids), size):
            batch = {id_: questions[id_] for id_ in ids[start : start + size]}
            parts.append(
                score_images(
                    *(model, codec, images_by_id, batch), method=method, settings=config.scoring, encoder=encoder
                )
            )
            progress.advance(len(batch))
        tables[method] = pd.concat(parts) if parts else pd.DataFrame(columns=list(IMAGE_TYPES))
    return {method: tables[method] for method in VQA_METHODS}


def judged_images(
    config: Config,
    layout: Layout,
    *,
    images_by_id: Mapping[str, np.ndarray],
    captions: Mapping[str, str],
    questions: Mapping[str, Sequence[Question]],
) -> pd.DataFrame:
    """What the independent judge reads off every candidate image; columns as `image_agreement` wants."""
    codec = load_codec(layout.tokenizer, device=torch.device(config.runtime.device))
    world, records = world_of(config.data), []
    progress = Progress(len(captions), "judge the candidates", "pair")
    for id_, caption in captions.items():
        images = codec.to_pixels(as_tensor(images_by_id[id_]))
        for k, scene in enumerate(world.read_images(images)):
            right = [world.answer(scene, q) == q.answer for q in questions[id_]]
            share = float(np.mean(right)) if right else 0.0
            accepted = float(world.accepts(scene, caption))
            records.append({"id": id_, "candidate": k, "share": share, "accepted": accepted})
        progress.advance()
    return pd.DataFrame(records, columns=["id", "candidate", "share", "accepted"])


def _check_readable(path: Path, captions: Mapping[str, str], world: World) -> None:
    for id_, caption in captions.items():
        if world.parse_caption(caption) is None:
            raise DataError(
                f"{path}: the caption of pair `{id_}`, {caption!r}, is no sentence of the {world.title}, so its "
                "judge cannot grade it. Set scoring.agreement_pairs to 0 for data from elsewhere."
            )


def by_pair(table: pd.DataFrame, ids: Sequence[str]) -> list[pd.DataFrame]:
    """The rows of each pair, sorted by candidate, in the order of the ids."""
    groups = dict(list(table.sort_values("candidate").groupby("id", sort=False)))
    return [groups[id_] for id_ in ids]


def rank_agreement(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    """How well scores rank the candidates of one pair as an independent measure does, averaged over pairs.

    Args:
        scores: per pair, (n,) scores of its candidates.
        truths: per pair, (n,) values of the independent measure.

    Returns:
        `kendall_tau`: mean tau-b over `tau_pairs` pairs (those where neither side is constant; None if there is
        none); `best_beats_worst`: share of `choice_pairs` pairs (best and worst score differ) whose best-scored
        candidate is truly better than the worst-scored, an equal truth counting half; `truth_best`, `truth_mean`,
        `truth_worst`: mean truth of the best-scored, of all and of the worst-scored candidates over all pairs.
    """
    from scipy.stats import kendalltau

    taus, beats, best, worst = [], [], [], []
    for score, truth in zip(scores, truths, strict=True):
        high, low = int(np.argmax(score)), int(np.argmin(score))
        best.append(truth[high])
        worst.append(truth[low])
        if score[high] > score[low]:
            beats.append(0.5 * (1 + np.sign(truth[high] - truth[low])))
            if np.ptp(truth) > 0:
                taus.append(kendalltau(score, truth, variant="b").statistic)
    return {
        "kendall_tau": _mean(taus),
        "tau_pairs": len(taus),
        "best_beats_worst": _mean(beats),
        "choice_pairs": len(beats),
        "truth_best": _mean(best),
        "truth_mean": _mean([float(np.mean(truth)) for truth in truths]),
        "truth_worst": _mean(worst),
        "pairs": len(best),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
