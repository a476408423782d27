"""Start the results of one config from those of another: what both would make alike is copied and need not be computed.

    python workflow/scripts/start_from.py config/pictures-paper.yaml config/robustness/chrf.yaml

A job is alike where its step has one digest in both configs (code and values: `hermesflow.config.digests`), it has the
same files, and so has all that made them. What is there already is not written again. Files are copies, for
`snakemake --touch` would touch both ends of a link; their manifests name what they were made from, in the other folder.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from hermesflow.cli.dvc import GATHERED_BY, jobs_of
from hermesflow.config.digests import step_digests, step_name
from hermesflow.config.experiment import Config
from hermesflow.config.load import load_config
from hermesflow.core.errors import ArtifactError, ConfigError, HermesflowError
from hermesflow.core.files import atomic, content_digest

Jobs = list[dict[str, Any]]


def alike(old: Config, old_jobs: Jobs, new: Config, new_jobs: Jobs) -> Jobs:
    """The jobs of `new` that are alike in `old`, each behind those that make its inputs."""
    source, target = f"results/{old.name}/", f"results/{new.name}/"
    known = {
        tuple(path.replace(source, target) for path in job["output"]): [
            path.replace(source, target) for path in job["input"]
        ]
        for job in old_jobs
    }
    digests = [step_digests(config) for config in (old, new)]

    def is_alike(job: dict[str, Any]) -> bool:
        step = step_name(job["rule"], *map(job["wildcards"].get, ("checkpoint", "benchmark")))
        before, now = (known_digests.get(step) for known_digests in digests)
        inputs = known.get(tuple(job["output"]))
        ours = {path for path in job["input"] if path.startswith(target)}
        return now is not None and before == now and inputs == job["input"] and ours <= made

    made: set[str] = set()
    ordered: Jobs = []
    while more := [job for job in new_jobs if job not in ordered and is_alike(job)]:
        ordered += more
        made |= {path for job in more for path in job["output"]}
    return ordered


def start(old_file: Path, new_file: Path) -> list[Path]:
    """Copy what is alike and not there yet, or is other there, and tell Snakemake that it is current.

    Returns:
        The files that were copied.

    Raises:
        ArtifactError: the other results lack a file, or are of other code or values than those here now.
        ConfigError: nothing is alike.
    """
    old, new = load_config(old_file), load_config(new_file)
    jobs = alike(old, _jobs(old_file, new.seeds), new, _jobs(new_file, new.seeds))
    # shards go when they are gathered
    files = [Path(path) for job in jobs if job["rule"] not in GATHERED_BY for path in job["output"]]
    source = {path: Path("results", old.name, *path.parts[2:]) for path in files}
    if not files:
        raise ConfigError(f"{new_file}: has no step in common with {old_file}, so there is nothing to start from.")
    seeds = f"seeds=[{','.join(map(str, new.seeds))}]"
    mend = f"Run `workflow/run --configfile {old_file} --config {seeds}` first."
    if lacking := [path for path in source.values() if not path.is_file()]:
        raise ArtifactError(
            f"{lacking[0]}: is missing, so {new_file} cannot start from {old_file} ({len(lacking)} of {len(source)} "
            f"files are). {mend}"
        )
    stale = [path for path in files if not path.exists() or content_digest(path) != content_digest(source[path])]
    if not stale and _stale(new_file, seeds, files) is None:
        return []
    if told := _stale(old_file, seeds, source.values()):
        raise ArtifactError(
            f"results/{old.name}: is not what {old_file} makes with the code and the values here now, so {new_file} "
            f"cannot start from it. {mend} Snakemake says: {told}"
        )
    for path in stale:
        with atomic(path) as temporary:
            shutil.copyfile(source[path], temporary)
    _snakemake(new_file, seeds, "--quiet", "all", "--touch", "--force", "--", *files)
    return stale


def _stale(config_file: Path, seeds: str, files: Iterable[Path]) -> str | None:
    """What Snakemake would do to make some files; None if it is nothing."""
    told = _snakemake(config_file, seeds, "--dry-run", "--", *files)
    return None if "Nothing to be done" in told else told.strip()[-1500:]


def _snakemake(config_file: Path, seeds: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", "snakemake", "--configfile", config_file, "--config", seeds, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return done.stdout


@cache
def _jobs(config_file: Path, seeds: tuple[int, ...]) -> Jobs:
    return jobs_of(config_file, seeds)


if __name__ == "__main__":
    try:
        copied = start(*map(Path, sys.argv[1:]))
    except HermesflowError as error:
        sys.exit(f"start_from: {error}")
    print(f"{len(copied)} files copied")
