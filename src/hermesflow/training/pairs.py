"""Homologous preference pairs as training sees them: which pairs, in which order, under which noise.

Everything is a pure function of run seed, self-play iteration, pair id and pass. So all objectives of an iteration
meet the same pairs in the same order under the same noise, the reference can be evaluated beforehand, and a resumed
run goes on exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hermesflow.core.errors import DataError
from hermesflow.core.images import as_tensor
from hermesflow.core.seeding import seed_of
from hermesflow.models.backbone import Completion, Noise, NoiseName
from hermesflow.selfplay.preferences import Candidate, Pair, caption_pairs

Row = tuple[str, int]
"""A pair id and the pass (from 0) in which it is met."""


@dataclass(frozen=True)
class PairBatch:
    """B homologous pairs: row k of every field is about the same image x and caption y."""

    rows: list[Row]
    captions: list[str]
    """y, which images are generated from."""
    seen: Tensor
    """(B, *seen): x, which captions are about."""
    chosen_captions: list[Completion]
    rejected_captions: list[Completion]
    chosen_images: Tensor
    """(B, *generated)."""
    rejected_images: Tensor
    """(B, *generated)."""
    noise: Noise
    """Of B pairs: the one that chosen and rejected, policy and reference are scored under."""


class HomologousPairs:
    """The preference pairs of one checkpoint with the real images and captions they are about.

    Args:
        preferences: one row per id with a pair of captions, a pair of images or both (`preferences.parquet`).
        images: chosen and rejected image by id, (2, *generated); any two where the id has no pair of images.
        captions: y by id.
        seen: x by id, (*seen).
        seed: run seed.
        iteration: self-play iteration, from 1.
        noise: of pairs, by their names (`UnifiedModel.noise`).

    Raises:
        DataError: no pairs, an id twice, or an unknown caption or image.
    """

    def __init__(
        self,
        preferences: pd.DataFrame,
        *,
        images: Mapping[str, np.ndarray],
        captions: Mapping[str, str],
        seen: Mapping[str, np.ndarray],
        seed: int,
        iteration: int,
        noise: Callable[[Sequence[NoiseName]], Noise],
    ) -> None:
        missing = [i for i in preferences["id"] if i not in captions or i not in seen or i not in images]
        if missing or preferences.empty:
            raise DataError(
                f"{len(preferences)} preference pairs, {len(missing)} of them (first {missing[:1]}) about an unknown "
                "image or caption; run stages encode and prefer again on the same data."
            )
        self.seed, self.iteration = seed, iteration
        presence = preferences.set_index("id").reindex(columns=["chosen_caption", "chosen_image_score"], fill_value=1.0)
        self._presence = dict(zip(presence.index, presence.notna().to_numpy(np.float32), strict=True))
        self._pairs = caption_pairs(preferences[preferences["chosen_caption"].notna()])
        self._images, self._captions, self._seen, self._noise = images, captions, seen, noise
        if len(self._presence) < len(preferences):
            raise DataError("preferences.parquet holds an id twice; run stage prefer again.")

    def __len__(self) -> int:
        return len(self._presence)

    def pass_order(self, pass_: int) -> list[str]:
        """All ids, shuffled anew in every pass; the order of the table plays no part."""
        return sorted(self._presence, key=lambda i: seed_of(self.seed, self.iteration, "order", pass_, i))

    def rows(self, total: int) -> list[Row]:
        """The first `total` rows of training, pass after pass; a pass may end inside a batch."""
        endless = ((pair_id, pass_) for pass_ in count() for pair_id in self.pass_order(pass_))
        return list(islice(endless, total))

    def batch(self, rows: Sequence[Row], *, device: torch.device | str) -> PairBatch:
        """Put rows together; both skills of row k come from the same id.

        Where an id has no pair of a kind, two equal answers stand in its place: they are scored and weigh nothing
        (`weights`), so that every process makes the same calls.
        """
        ids = [pair_id for pair_id, _ in rows]
        pairs = [self._pairs.get(i, _NO_CAPTIONS) for i in ids]
        return PairBatch(
            rows=list(rows),
            captions=[self._captions[i] for i in ids],
            seen=_stacked((self._seen[i] for i in ids), device),
            chosen_captions=[_completion(pair.chosen) for pair in pairs],
            rejected_captions=[_completion(pair.rejected) for pair in pairs],
            chosen_images=_stacked((self._images[i][0] for i in ids), device),
            rejected_images=_stacked((self._images[i][1] for i in ids), device),
            noise=self._noise([(self.seed, self.iteration, *row) for row in rows]),
        )

    def weights(self, rows: Sequence[Row], step: Sequence[Row], *, device: torch.device | str) -> Tensor:
        """What rows weigh in their step, (2, B) float32: captions, images.

        The mean over the rows of a step of values times their weights is the mean over the pairs of that skill that
        are in the step: a pair that is not there weighs 0, the others N / n for n of N rows; all 1 where all are there.

        Args:
            rows: B rows.
            step: all rows of the step that they belong to, of all micro batches and processes.
            device: of the result.
        """
        totals = np.sum([self._presence[pair_id] for pair_id, _ in step], axis=0)
        presence = np.stack([self._presence[pair_id] for pair_id, _ in rows], axis=1)
        return torch.from_numpy(presence * (len(step) / np.maximum(totals, 1))[:, None]).float().to(device)


_NO_CAPTIONS = Pair(Candidate("", 0.0), Candidate("", 0.0))


def _completion(caption: Candidate) -> Completion:
    """What a caption was sampled as: its tokens where its text alone does not give them."""
    assert isinstance(caption.content, str)
    return caption.content if caption.tokens is None else caption.tokens


def _stacked(images: Iterable[np.ndarray], device: torch.device | str) -> Tensor:
    return as_tensor(np.stack(list(images))).to(device)
