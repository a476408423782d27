"""How long Snakemake takes to see that a finished run of the paper's size is finished, and how much it reads for that.

    python -m bench.files [--config config/showo.yaml] [--scale 0.01] [--source FOLDER]

In a temporary copy of the project's files, with a result for every output of every job: sparse files, which take no
disk, of the bytes that `hermesflow plan` counts. Snakemake is told that all is current (`--touch`), then asked, again
after every file got another time in random order, as `dvc checkout` leaves them. Bytes are what the process has read in
all, Python's own modules included. `--source` measures another checkout of this project; one that reads all files of
whatever size needs a `--scale` too. Writes results/bench/files.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hermesflow.budget.disk import disk_of
from hermesflow.budget.family import costs_of
from hermesflow.config.experiment import BASE
from hermesflow.config.load import load_config
from hermesflow.core.files import LARGE, glance, write_json
from hermesflow.models.lengths import Lengths

BARS = {"seconds": 20.0, "bytes": 1e9}
"""Of a dry run and of a run that finds nothing to do (issue 19)."""
HEAVIEST = (".safetensors", ".npy", ".parquet")
"""The file of a job that gets its bytes: of the first kind that it writes. The others are small."""
SMALL = 500
SNAKEMAKE = """
import sys
from pathlib import Path
from snakemake.cli import main
try:
    main(sys.argv[2:])
finally:
    Path(sys.argv[1]).write_text(Path("/proc/self/io").read_text())
"""


def main() -> None:
    """Make the results, ask, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("config/showo.yaml"))
    parser.add_argument("--scale", type=float, default=1.0, help="bytes of every result, times this (default 1)")
    parser.add_argument("--source", type=Path, default=Path(), help="checkout to measure (default this one)")
    parser.add_argument("--output", type=Path, default=Path("results/bench/files.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.source, Path(folder), arguments.config, arguments.scale)
    write_json(arguments.output, found)


def measure(source: Path, folder: Path, config_file: Path, scale: float) -> dict[str, Any]:
    """Files and bytes of the results, and what each question took."""
    copy(source, folder)
    sizes = sizes_of(jobs(folder, config_file), config_file, scale)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)
    record_digests(folder, sizes)
    found: dict[str, Any] = {"files": len(sizes), "bytes": sum(sizes.values()), "scale": scale}
    print(f"{found['files']:,} files of {found['bytes'] / 1e9:,.1f} GB", flush=True)
    questions: dict[str, list[str]] = {
        "all said to be current": ["--touch", "--forceall", "--quiet", "all"],
        "dry run": ["--dry-run"],
        "dry run after a checkout": ["--dry-run"],
        "run after a checkout": [],
    }
    for name, options in questions.items():
        if name == "dry run after a checkout":
            new_times(folder, list(sizes))
        found[name] = asked(folder, ["--configfile", str(config_file), "--cores", "64", *options])
        print(f"{name:26}{found[name]['seconds']:8.1f} s{found[name]['bytes'] / 1e6:12,.0f} MB read", flush=True)
    return found


def copy(source: Path, folder: Path) -> None:
    """All files of a checkout that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name, follow_symlinks=False)


def environment(folder: Path) -> dict[str, str]:
    """For a process that is to import the code that was copied."""
    return {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}


def jobs(folder: Path, config_file: Path) -> list[dict[str, Any]]:
    """All jobs of a config, as Snakemake lists them."""
    command = [sys.executable, "workflow/scripts/jobs.py", str(config_file)]
    done = subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def sizes_of(listed: Sequence[dict[str, Any]], config_file: Path, scale: float) -> dict[str, int]:
    """Bytes of every file that stays, by name; shards go when they are gathered."""
    config = load_config(config_file)
    decoder, lengths = costs_of(config).Decoder.of(config), Lengths.of(config)
    sizes: dict[str, int] = {}
    for job in listed:
        rule, wildcards, outputs = job["rule"], job["wildcards"], job["output"]
        if rule in ("all", "sample", "draw"):
            continue
        # of a reference the plan asks for a checkpoint trained against it, and base is none
        trained = next(iter(config.checkpoints)) if rule == "reference" else wildcards.get("checkpoint", BASE)
        whole = disk_of(config, rule, trained, decoder, lengths, wildcards.get("benchmark"))
        total = whole / int(wildcards.get("shards", 1))
        heavy = next((own for kind in HEAVIEST if (own := [name for name in outputs if name.endswith(kind)])), outputs)
        for name in outputs:
            sizes[name] = max(int(total * scale / len(heavy)), SMALL) if name in heavy else SMALL
    return {f"{name}/file" if Path(name).name == "lmms" else name: size for name, size in sizes.items()}


def record_digests(folder: Path, sizes: dict[str, int]) -> None:
    """What would be written down with large files: in the JSON beside images, in the manifest of the others' folder."""
    for name in sizes:
        path = folder / name
        if path.suffix == ".npy":
            path.with_suffix(".json").write_text(json.dumps({"sha256": digest_of_zeros(path.stat().st_size)}))
        elif path.name == "manifest.json":
            large = [file for file in path.parent.iterdir() if file.is_file() and file.stat().st_size >= LARGE]
            known = {
                file.name: {"sha256": digest_of_zeros(file.stat().st_size), "glance": glance(file)} for file in large
            }
            path.write_text(json.dumps({"large_files": known}))


@cache
def digest_of_zeros(size: int) -> str:
    """Hex sha256 of so many zero bytes."""
    total, block = hashlib.sha256(), bytes(2**20)
    for _ in range(size // len(block)):
        total.update(block)
    total.update(bytes(size % len(block)))
    return total.hexdigest()


def new_times(folder: Path, names: list[str]) -> None:
    """Give every file another time, in random order."""
    random.Random(0).shuffle(names)
    start = time.time() - len(names)
    for place, name in enumerate(names):
        os.utime(folder / name, (start + place, start + place))


def asked(folder: Path, options: Sequence[str]) -> dict[str, float]:
    """Seconds of a Snakemake that must find nothing to do, and the bytes that it read."""
    command = [sys.executable, "-c", SNAKEMAKE, "io.txt", *options]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode or ("--touch" not in options and "Nothing to be done" not in done.stdout):
        raise SystemExit(f"snakemake {' '.join(options)} found something to do:\n{done.stdout[-4000:]}")
    counts = dict(line.split(": ") for line in (folder / "io.txt").read_text().splitlines())
    return {"seconds": seconds, "bytes": int(counts["rchar"])}


if __name__ == "__main__":
    main()
