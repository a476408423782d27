"""Give every result an inode of its own: DVC links files of equal content to one, and touching one touches all.

    python workflow/scripts/unshare.py results/micro

`snakemake --touch` then finds an early input newer than a late output (`rejected.csv` and `table_rejected.csv` of a run
that rejected nothing are one file).
"""

import os
import shutil
import sys
from pathlib import Path


def unshare(folder: Path) -> None:
    """Replace all but one of the files of a folder that share an inode by copies, read-only as DVC leaves them."""
    seen: set[int] = set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        inode = path.stat().st_ino
        if inode in seen:
            copy = path.with_name(f"{path.name}.copy")
            shutil.copy2(path, copy)
            os.replace(copy, path)
        seen.add(inode)


if __name__ == "__main__":
    unshare(Path(sys.argv[1]))
