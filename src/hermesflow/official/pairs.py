"""Defects of the released code in choosing pairs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hermesflow.selfplay.preferences import Candidate, Pair, Selection, Threshold, select


def joined_by_list_index(candidates: pd.DataFrame) -> pd.DataFrame:
    """`string_order`: self-VQA read the folders of the pairs in the order of strings; scores were joined by place.

    Args:
        candidates: columns id, candidate and score; every id has the same number of rows, all together.

    Returns:
        The same rows; the scores of pair k are those of the k-th pair in the order "0", "1", "10", "11", ...
    """
    pairs = candidates["id"].nunique()
    read = sorted(range(pairs), key=str)
    scores = candidates["score"].to_numpy().reshape(pairs, -1)
    return candidates.assign(score=scores[read].reshape(-1))


def stale_selection(
    candidates: Mapping[str, list[Candidate]], previous: Mapping[str, Pair], threshold: Threshold
) -> Selection:
    """`stale_candidates`: a prompt that the filter refuses is written all the same, at the prompt before's indices.

    What is written may be tied or inverted. A prompt before any that passes is dropped, and so is a refused pair of a
    later iteration (Eq. 10), which has no indices.

    Args:
        candidates: by pair id, in candidate order.
        previous: pairs of the parent, by id.
        threshold: what the filter lets pass.
    """
    honest = select(candidates, previous, threshold)
    pairs: dict[str, Pair] = {}
    indices: tuple[int, int] | None = None
    for pair_id, own in candidates.items():
        first = pair_id not in previous
        if pair_id in honest.pairs:
            pair = honest.pairs[pair_id]
            if first:
                indices = own.index(pair.chosen), own.index(pair.rejected)
            pairs[pair_id] = pair
        elif first and indices is not None:
            pairs[pair_id] = Pair(chosen=own[indices[0]], rejected=own[indices[1]])
    stale = len(pairs) - len(honest.pairs)
    counts = {**honest.counts, "kept": len(pairs), "written although dropped": stale}
    return Selection(pairs, counts)
