"""Verdicts kept while a benchmark's images are graded: a killed job goes on with the rest and ends the same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from hermesflow.core.files import digest_of, sha256

_PREFIX = "graded-"


def parts_folder(folder: Path, origin: Sequence[object], module: Path) -> Path:
    """Folder of the parts that are graded already, each of the same prompts in every run.

    Args:
        folder: of the benchmark.
        origin: all that decides the verdicts beside code, as plain data: parts of another origin are not taken.
        module: of the benchmark; nor are parts of other code there, here or in `graders`.
    """
    here = Path(__file__).parent
    code = [sha256(path) for path in (module, *sorted(here.glob("*.py")), *sorted(here.glob("graders/*.py")))]
    return folder / f"{_PREFIX}{digest_of([*origin, code])}"


def remove_parts(folder: Path) -> None:
    """Remove all parts in the folder of a benchmark, of whatever origin."""
    for parts in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(parts)
