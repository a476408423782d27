"""From scored candidates to chosen and rejected: one pair of captions and one pair of images per homologous pair.

First iteration: the best candidate is chosen, the worst rejected. Later iterations update the pair of the one before
with the best candidate of the newest policy (Eq. 10), or start as the first. Both skills follow the same two rules; a
pair in which chosen does not beat rejected is never kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from hermesflow.config.sections import PairsKept
from hermesflow.core.errors import DataError
from hermesflow.core.images import ImageForm

Drop = Literal["same text", "same image", "tie", "inverted", "below threshold"]


@dataclass(frozen=True)
class Candidate:
    """One answer of the model with its score; higher is better."""

    content: str | bytes
    """A caption, or the bytes of an image's array."""
    score: float
    tokens: tuple[int, ...] | None = None
    """Token ids of a caption, where its text alone does not give them: it was cut, or is tokenised otherwise."""
    cut: bool = False
    """Whether a caption ended at the limit of tokens instead of its end token, so that its end is not trained."""
    age: int = 0
    """Iterations since it was sampled; 0 is the newest policy's."""


@dataclass(frozen=True)
class Pair:
    """What the model should prefer to what."""

    chosen: Candidate
    rejected: Candidate


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a pair must reach to be kept; both comparisons are strict."""

    min_score: float = float("-inf")
    """The score of chosen must be above this (images: the paper's 0.6)."""
    min_margin: float = 0.0
    """Chosen must score more than this above rejected."""


def first_pair(candidates: Iterable[Candidate]) -> Pair:
    """Best and worst candidate; of equal scores the one that comes first.

    Source: HermesFlow section 3.2.
    """
    candidates = list(candidates)
    return Pair(chosen=max(candidates, key=_score), rejected=min(candidates, key=_score))


def updated_pair(candidates: Iterable[Candidate], previous: Pair) -> Pair:
    """The self-play update: the newest policy's best answer c joins the pair (w, l) of the iteration before.

    If c beats w, the new pair is (c, w): what was best is now what to leave behind. Otherwise it is (c, l).

    Source: HermesFlow Eq. 10.
    """
    best = max(candidates, key=_score)
    rejected = previous.chosen if best.score > previous.chosen.score else previous.rejected
    return Pair(chosen=best, rejected=replace(rejected, age=rejected.age + 1))


def reason_to_drop(pair: Pair, threshold: Threshold) -> Drop | None:
    """Why a pair teaches nothing, or the wrong thing; None if it is good.

    Equal contents can differ in score after an update, since each iteration's own policy answers the questions.
    """
    chosen, rejected = pair.chosen, pair.rejected
    if chosen.score == rejected.score:
        return "tie"
    if chosen.content == rejected.content:
        return "same text" if isinstance(chosen.content, str) else "same image"
    if chosen.score < rejected.score:
        return "inverted"
    if chosen.score <= threshold.min_score or chosen.score - rejected.score <= threshold.min_margin:
        return "below threshold"
    return None


@dataclass(frozen=True)
class Selection:
    """The pairs of one skill with the account of how they came about."""

    pairs: dict[str, Pair]
    """By pair id, in the order of the candidates."""
    counts: dict[str, Any]
    """ids, candidates, updated (from a previous pair), kept, dropped (by reason), ages (of chosen and rejected of kept
    pairs, by iterations since they were sampled); and only where there are any, `cut`: candidates and kept pairs that
    were cut at the limit of tokens."""


def select(candidates: Mapping[str, list[Candidate]], previous: Mapping[str, Pair], threshold: Threshold) -> Selection:
    """Choose one pair per id, with the previous iteration's pair where there is one.

    Args:
        candidates: by pair id, in candidate order; never empty.
        previous: pairs of the parent, by id; ids without one start as in the first iteration. None at all makes
            every pair anew: both answers are then those of the policy that training starts from, scored by it alone,
            as in Iterative RPO (Pang et al. 2024); Eq. 10 compares scores of two policies and reuses old answers.
        threshold: what a pair must reach.
    """
    pairs: dict[str, Pair] = {}
    dropped: Counter[str] = Counter()
    for pair_id, group in candidates.items():
        pair = updated_pair(group, previous[pair_id]) if pair_id in previous else first_pair(group)
        reason = reason_to_drop(pair, threshold)
        if reason is None:
            pairs[pair_id] = pair
        else:
            dropped[reason] += 1
    counts = {
        "ids": len(candidates),
        "candidates": sum(len(group) for group in candidates.values()),
        "updated": sum(pair_id in previous for pair_id in candidates),
        "kept": len(pairs),
        "dropped": dict(sorted(dropped.items())),
        "ages": {
            "chosen": _counted(pair.chosen.age for pair in pairs.values()),
            "rejected": _counted(pair.rejected.age for pair in pairs.values()),
        },
    }
    if cut := sum(candidate.cut for group in candidates.values() for candidate in group):
        counts["cut"] = {
            "candidates": cut,
            "kept": sum(pair.chosen.cut or pair.rejected.cut for pair in pairs.values()),
        }
    return Selection(pairs, counts)


def _counted(ages: Iterable[int]) -> dict[str, int]:
    return {str(age): n for age, n in sorted(Counter(ages).items())}


def homologous_table(
    captions: Selection, images: Selection, pairs: PairsKept = "both"
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join both skills by id: ids with a pair of captions AND a pair of images are trained on, or with `any` of them.

    Returns:
        The table (id and the columns of both kinds, without values for a kind that an id has no pair of) and counts
        of all kinds: `homologous` counts ids with both pairs and, with `any`, those with one pair `alone`.
    """
    how: Literal["inner", "outer"] = "inner" if pairs == "both" else "outer"
    tables = captions_table(captions.pairs), images_table(images.pairs)
    left, right = (table.drop(columns=AGE, errors="ignore") for table in tables)  # training does not ask
    table = left.merge(right, on="id", how=how, validate="one_to_one")
    both = len(captions.pairs.keys() & images.pairs.keys())
    singles = {"captions": len(captions.pairs) - both, "images": len(images.pairs) - both}
    if pairs == "both":
        homologous = {"kept": both, "dropped": {kind: {"other side missing": n} for kind, n in singles.items()}}
    else:
        homologous = {"kept": both, "alone": singles, "dropped": {kind: {} for kind in singles}}
    return table, {"captions": captions.counts, "images": images.counts, "homologous": homologous}


def group_candidates(table: pd.DataFrame, *, content: str, first: int | None) -> dict[str, list[Candidate]]:
    """Candidates by id in candidate order.

    Args:
        table: columns id, candidate, score and `content`; every id has the same candidates 0..n-1, once each.
        content: column of captions, or of the bytes of images.
        first: use only the first so many candidates of each id; None is all.

    Raises:
        DataError: a score is not a number, a candidate is missing or there twice, or `first` exceeds n.
    """
    n = int(table["candidate"].max()) + 1 if len(table) else 0
    if first is not None and first > n:
        raise DataError(f"checkpoint asks for the first {first} candidates, but only {n} were sampled; sample more.")
    grouped: dict[str, list[Candidate]] = {}
    for pair_id, group in table.sort_values("candidate", kind="stable").groupby("id", sort=False):
        if list(group["candidate"]) != list(range(n)):
            raise DataError(
                f"pair `{pair_id}` has {content} candidates {list(group['candidate'])} instead of 0..{n - 1}, "
                "once each; gather candidates and scores again."
            )
        if not np.isfinite(group["score"]).all():
            raise DataError(f"pair `{pair_id}` has a {content} whose score is not a number; score again.")
        contents = zip(group[content], group["score"], *_sampled(group, "tokens", "cut"), strict=True)
        grouped[str(pair_id)] = [Candidate(what, float(score), tokens, cut) for what, score, tokens, cut in contents][
            :first
        ]
    return grouped


def _sampled(table: pd.DataFrame, tokens: str, cut: str) -> tuple[list[tuple[int, ...] | None], list[bool]]:
    """Columns of token ids and of what was cut; they are only there where a caption needs them."""
    if tokens not in table:
        return [None] * len(table), [False] * len(table)
    return [None if ids is None else tuple(map(int, ids)) for ids in table[tokens]], table[cut].astype(bool).to_list()


SAMPLED_COLUMNS = ("chosen_tokens", "rejected_tokens", "chosen_cut", "rejected_cut")
"""Of tables of captions in which the tokens of some are not those of their text."""
CAPTION_COLUMNS = ("id", "chosen_caption", "rejected_caption", "chosen_caption_score", "rejected_caption_score")
IMAGE_COLUMNS = ("id", "chosen_image_score", "rejected_image_score")
AGE = "rejected_age"
"""Column of both tables where a rejected answer is older than the newest candidates; chosen ones never are."""


def captions_table(pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """Pairs of captions as a table of `CAPTION_COLUMNS`, and of `SAMPLED_COLUMNS` where they are needed."""
    rows = [
        (
            *(pair_id, pair.chosen.content, pair.rejected.content, pair.chosen.score, pair.rejected.score),
            *(pair.chosen.tokens, pair.rejected.tokens, pair.chosen.cut, pair.rejected.cut),
        )
        for pair_id, pair in pairs.items()
    ]
    table = pd.DataFrame(rows, columns=[*CAPTION_COLUMNS, *SAMPLED_COLUMNS])
    needed = any(side.tokens is not None for pair in pairs.values() for side in (pair.chosen, pair.rejected))
    return _with_ages(table if needed else table[list(CAPTION_COLUMNS)], pairs)


def images_table(pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """Scores of pairs of images as a table of `IMAGE_COLUMNS`; the images themselves are `image_arrays`."""
    rows = [(pair_id, pair.chosen.score, pair.rejected.score) for pair_id, pair in pairs.items()]
    return _with_ages(pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), pairs)


def _with_ages(table: pd.DataFrame, pairs: Mapping[str, Pair]) -> pd.DataFrame:
    ages = [pair.rejected.age for pair in pairs.values()]
    return table.assign(**{AGE: ages}) if any(ages) else table


def _ages(table: pd.DataFrame) -> list[int]:
    return table[AGE].to_list() if AGE in table else [0] * len(table)


def image_arrays(pairs: Mapping[str, Pair], form: ImageForm) -> np.ndarray:
    """Chosen and rejected images, (N, 2, *form.shape), in the order of the pairs."""
    arrays = np.empty((len(pairs), 2, *form.shape), form.dtype)
    for row, pair in zip(arrays, pairs.values(), strict=True):
        for side, candidate in enumerate((pair.chosen, pair.rejected)):
            assert isinstance(candidate.content, bytes)
            row[side] = np.frombuffer(candidate.content, dtype=form.dtype).reshape(form.shape)
    return arrays


def caption_pairs(table: pd.DataFrame) -> dict[str, Pair]:
    """Read what `captions_table` made back."""
    chosen_sampled, rejected_sampled = (
        _sampled(table, f"{side}_tokens", f"{side}_cut") for side in ("chosen", "rejected")
    )
    rows = table[list(CAPTION_COLUMNS)].itertuples(index=False)
    return {
        pair_id: Pair(Candidate(chosen, float(best), *of_chosen), Candidate(rejected, float(worst), *of_rejected))
        for (pair_id, chosen, rejected, best, worst), of_chosen, of_rejected in zip(
            rows, zip(*chosen_sampled, strict=True), zip(*rejected_sampled, _ages(table), strict=True), strict=True
        )
    }


def image_pairs(table: pd.DataFrame, images: Mapping[str, np.ndarray]) -> dict[str, Pair]:
    """Read a table of `IMAGE_COLUMNS` back, with chosen and rejected images (2, *form.shape) by id."""
    return {
        pair_id: Pair(
            Candidate(images[pair_id][0].tobytes(), float(best)),
            Candidate(images[pair_id][1].tobytes(), float(worst), age=age),
        )
        for (pair_id, best, worst), age in zip(
            table[list(IMAGE_COLUMNS)].itertuples(index=False), _ages(table), strict=True
        )
    }


def _score(candidate: Candidate) -> float:
    return candidate.score
