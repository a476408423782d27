"""Bring the results of a config back from DVC's cache, and tell Snakemake that they are current.

    python workflow/scripts/restore.py config/pictures.yaml

DVC links files of equal content to one inode, and touching one touches all: `snakemake --touch` then finds an early
input newer than a late output (`rejected.csv` and `table_rejected.csv` of a run that rejected nothing are one file). So
every result gets an inode of its own. Where DVC's files mirror a larger config of the same results (`make demo` makes a
part of `make paper`), the report, which is that config's, is made again.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hermesflow.cli.dvc import MIRROR, mirrored_stages
from hermesflow.config.load import load_config


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


def main(config_file: Path) -> None:
    """Restore all results of one config."""
    config = load_config(config_file)
    mirrored = mirrored_stages(config_file, config.seeds)
    if mirrored is None:
        sys.exit(
            f"{MIRROR}: is of other results than those of {config_file}, so DVC does not have them. Make them again, "
            f"after `python -m hermesflow dvc --config {config_file}` if DVC is to keep them."
        )
    _, targets = mirrored
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "checkout", *targets], check=True)
    if subprocess.run([*dvc, "status", "--quiet", *targets]).returncode:
        sys.exit(f"Not all results of {config_file} are in DVC's cache: make them with `make demo` or `make paper`.")
    unshare(Path("results") / config.name)
    snakemake = [sys.executable, "-m", "snakemake", "--quiet", "all", "--configfile", str(config_file)]
    subprocess.run([*snakemake, "--touch", "--forceall", *(["--omit-from", "report"] if targets else [])], check=True)
    if targets:
        subprocess.run(["workflow/run", "--quiet", "all", "--configfile", str(config_file)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
