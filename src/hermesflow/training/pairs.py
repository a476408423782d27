"""Homologous preference pairs as training sees them: which pairs, in which order, under which masks.

Everything is a pure function of run seed, self-play iteration, pair id and pass. So all objectives of an iteration
meet the same pairs in the same order under the same masks, the reference can be evaluated beforehand, and a resumed
run goes on exactly where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.sections import MaskSchedule
from hermesflow.core.errors import DataError
from hermesflow.core.seeding import seed_of
from hermesflow.models.showo.masking import pair_mask
from hermesflow.selfplay.preferences import CAPTION_COLUMNS, IMAGE_COLUMNS

Row = tuple[str, int]
"""A pair id and the pass (from 0) in which it is met."""


@dataclass(frozen=True)
class PairBatch:
    """B homologous pairs: row k of every field is about the same image x and caption y."""

    rows: list[Row]
    captions: list[str]
    """y, which images are drawn from."""
    codes: Tensor
    """(B, T) int64, tokens of x, which captions are about."""
    chosen_captions: list[str]
    rejected_captions: list[str]
    chosen_codes: Tensor
    """(B, T) int64, tokens of the image to prefer."""
    rejected_codes: Tensor
    """(B, T) int64."""
    masked: Tensor
    """(B, T) bool: the one mask that chosen and rejected, policy and reference are scored under."""


class HomologousPairs:
    """The preference pairs of one checkpoint with the real images and captions they are about.

    Args:
        preferences: one row per id with a pair of captions and a pair of images (`preferences.parquet`).
        captions: y by id.
        codes: x by id, (T,) integers.
        seed: run seed.
        iteration: self-play iteration, from 1.
        mask_schedule: how much of an image is masked.

    Raises:
        DataError: no pairs, an id twice, an unknown caption or image, or images of different resolutions.
    """

    def __init__(
        self,
        preferences: pd.DataFrame,
        *,
        captions: Mapping[str, str],
        codes: Mapping[str, np.ndarray],
        seed: int,
        iteration: int,
        mask_schedule: MaskSchedule,
    ) -> None:
        lost = [i for i in preferences["id"] if i not in captions or i not in codes]
        if lost or preferences.empty:
            raise DataError(
                f"{len(preferences)} preference pairs, {len(lost)} of them (first {lost[:1]}) about an unknown image "
                "or caption; run stages encode and prefer again on the same data."
            )
        drawn = {len(tokens) for side in ("chosen_codes", "rejected_codes") for tokens in preferences[side]}
        real = {len(codes[i]) for i in preferences["id"]}
        if len(drawn | real) != 1:
            raise DataError(
                f"drawn images have {sorted(drawn)} tokens, real ones {sorted(real)}: candidates were sampled at "
                "another resolution than training uses; sample and encode again with one config."
            )
        self.seed, self.iteration, self.mask_schedule = seed, iteration, mask_schedule
        self._pairs = preferences[[*CAPTION_COLUMNS, *IMAGE_COLUMNS[1:]]].set_index("id")
        self._captions, self._codes = captions, codes
        if not self._pairs.index.is_unique:
            raise DataError("preferences.parquet holds an id twice; run stage prefer again.")

    def __len__(self) -> int:
        return len(self._pairs)

    def pass_order(self, pass_: int) -> list[str]:
        """All ids, shuffled anew in every pass; the order of the table plays no part."""
        return sorted(self._pairs.index, key=lambda i: seed_of(self.seed, self.iteration, "order", pass_, i))

    def rows(self, total: int) -> list[Row]:
        """The first `total` rows of training, pass after pass; a pass may end inside a batch."""
        endless = ((pair_id, pass_) for pass_ in count() for pair_id in self.pass_order(pass_))
        return list(islice(endless, total))

    def batch(self, rows: Sequence[Row], *, device: torch.device | str) -> PairBatch:
        """Put rows together; both skills of row k come from the same id."""
        ids = [pair_id for pair_id, _ in rows]
        pairs = self._pairs.loc[ids]
        codes = _tokens((self._codes[i] for i in ids), device)
        masks = [
            pair_mask(
                pair_id,
                pass_,
                seed=self.seed,
                iteration=self.iteration,
                num_tokens=codes.shape[1],
                schedule=self.mask_schedule,
            )
            for pair_id, pass_ in rows
        ]
        return PairBatch(
            rows=list(rows),
            captions=[self._captions[i] for i in ids],
            codes=codes,
            chosen_captions=pairs["chosen_caption"].to_list(),
            rejected_captions=pairs["rejected_caption"].to_list(),
            chosen_codes=_tokens(pairs["chosen_codes"], device),
            rejected_codes=_tokens(pairs["rejected_codes"], device),
            masked=torch.stack(masks).to(device),
        )


def _tokens(codes: Iterable[np.ndarray], device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(row, dtype=np.int64) for row in codes])).to(device)
