"""One run at a time in a folder, also after a run was killed.

Snakemake's own lock outlives a kill. The runner (`workflow/run`) may remove it only where nobody is running: it holds
`FOLDER/run.lock` alone, and every Snakemake started by hand shares it for as long as it lives.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

LOCK = "run.lock"


def hold_folder(folder: Path) -> IO[str] | None:
    """Share the lock of a folder until the returned file is closed; None where a runner holds it alone."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
