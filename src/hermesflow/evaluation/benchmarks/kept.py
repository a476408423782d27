"""Verdicts kept while a benchmark's images are graded: a killed job goes on with the rest and ends the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hermesflow.core.files import digest_of, sha256, write_table

_PREFIX = "graded-"


@dataclass(frozen=True)
class Kept:
    """A folder of parts, each of the same prompts in every run."""

    folder: Path

    @staticmethod
    def of(folder: Path, origin: Sequence[object]) -> Kept:
        """Parts in the folder of a benchmark.

        Args:
            folder: of the benchmark.
            origin: all that decides the verdicts beside the code of this package, as plain data: parts of another
                origin or other code are not taken.
        """
        code = [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
        return Kept(folder / f"{_PREFIX}{digest_of([*origin, code])}")

    def table(
        self,
        prompts: int,
        make: Callable[[int, int], pd.DataFrame],
        *,
        together: int,
        skip: Callable[[int], None],
    ) -> pd.DataFrame:
        """Verdicts on all prompts, in order.

        Args:
            prompts: how many there are.
            make: verdicts on prompts `start` to `stop` - 1.
            together: prompts of a part.
            skip: told how many prompts of a part are there already.
        """
        parts = []
        for start in range(0, prompts, together):
            stop = min(start + together, prompts)
            path = self.folder / f"{start}-{stop}.parquet"
            if path.exists():  # written whole or not at all
                skip(stop - start)
            else:
                write_table(path, make(start, stop))
            parts.append(pd.read_parquet(path))
        return pd.concat(parts, ignore_index=True)

    def drop(self) -> None:
        """Remove all parts of the benchmark, of other origins too."""
        for folder in self.folder.parent.glob(f"{_PREFIX}*"):
            shutil.rmtree(folder)
