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
    def of(folder: Path, origin: Sequence[object], module: Path) -> Kept:
        """Parts in the folder of a benchmark.

        Args:
            folder: of the benchmark.
            origin: all that decides the verdicts beside code, as plain data: parts of another origin are not taken.
            module: of the benchmark; nor are parts of other code there, here or in `graders`.
        """
        here = Path(__file__).parent
        code = [sha256(path) for path in (module, *sorted(here.glob("*.py")), *sorted(here.glob("graders/*.py")))]
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


def drop_kept(folder: Path) -> None:
    """Remove all parts in the folder of a benchmark, of whatever origin."""
    for parts in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(parts)
