"""DVC's files, generated: one DVC stage per rule, checkpoint and benchmark, as Snakemake lists the jobs of a config.

Snakemake decides how work runs; DVC decides what is current, by content, and keeps every artifact. Scattered shards
stay inside Snakemake: a gathering rule and the rule it gathers are one stage whose outs are the gathered artifact.

What a step is made from besides its input files is one digest of code and settings. The first DVC stage, `digests`,
writes those of all steps into one file, from the source and the config; all others name theirs as a param, which DVC
reads when it comes to them. The stages of a checkpoint are in `workflow/dvc/SEED/CHECKPOINT/dvc.yaml`: after every
stage DVC reads and writes the whole dvc.lock beside its file, so with one file for all the time would grow with the
square of the stages. `dvc repro` follows the report's inputs into all of them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.digests import modules_behind, step_digests, step_name
from hermesflow.config.experiment import BASE, Config, has_judge
from hermesflow.config.load import config_files, load_config
from hermesflow.config.reads import READS
from hermesflow.core.errors import ConfigError
from hermesflow.core.files import atomic, digest_of, read_json
from hermesflow.core.provenance import ROOT

GATHERED_BY = {"sample": "gather_candidates", "score": "gather_scores", "draw": "gather_drawn"}
"""Scattered rules and the rule that joins their shards."""
METRICS = "metrics.json"
REPOSITORY = ROOT.parents[1]
MIRROR = Path("dvc.yaml")
FOLDER = Path("workflow/dvc")
"""Where the stages of each checkpoint are."""


def check_benchmarks(config: Config, config_file: str) -> None:
    """Refuse real benchmarks beside the micro world's counterparts, which have the same names in the tables.

    Raises:
        ConfigError: the config has both.
    """
    benchmarks = config.benchmarks
    if benchmarks is None or not has_judge(config):
        return
    for name in benchmarks.names:
        if BENCHMARKS[name].paper:
            raise ConfigError(
                f"{config_file}: benchmarks.{BENCHMARKS[name].section_name}: with data.source {config.data.source} the "
                "evaluation measures this itself, by a judge that reads this world alone. Remove the section, or take "
                "real pairs (docs/data.md)."
            )


def digests_file(config: Config) -> Path:
    """The file that DVC reads the digests of steps from."""
    return Path("results") / config.name / "digests.json"


def write_mirror(config_file: Path) -> None:
    """Write the DVC files of a config under the current folder and remove those of other checkpoints."""
    mirror = dvc_files(config_file)
    for stale in set(FOLDER.rglob(MIRROR.name)) - set(mirror):
        stale.unlink()
        stale.with_suffix(".lock").unlink(missing_ok=True)
    for path, text in mirror.items():
        with atomic(path) as temporary:
            temporary.write_text(text)


def dvc_files(config_file: Path) -> dict[Path, str]:
    """Texts of the DVC files that mirror the rules for one config file, by path from the project's root."""
    config = load_config(config_file)
    files = {MIRROR: {"digests": _digests_stage(config, config_file)}}
    for path, stages in stages_of(jobs_of(config_file), config, config_file).items():
        files.setdefault(path, {}).update(stages)
    header = _header(config, config_file, config.seeds)
    return {
        path: f"{header}\n{yaml.safe_dump({'stages': stages}, sort_keys=False, width=10_000)}"
        for path, stages in files.items()
    }


def stages_of(jobs: Sequence[dict[str, Any]], config: Config, config_file: Path) -> dict[Path, dict[str, Any]]:
    """DVC stages by file and name.

    Args:
        jobs: rule, wildcards, input and output of every Snakemake job.
        config: the experiment.
        config_file: where it was read.
    """
    groups: dict[tuple[Path, str], list[dict[str, Any]]] = {}
    for job in jobs:
        if job["rule"] != "all":
            groups.setdefault((_file_of(job["wildcards"]), _name_of(job)), []).append(job)
    files: dict[Path, dict[str, Any]] = {}
    for path, name in sorted(groups):
        files.setdefault(path, {})[name] = _stage(path, groups[path, name], config, config_file)
    return files


def is_mirror(dvc_file: Path, config_file: Path, seeds: Sequence[int]) -> bool:
    """Whether DVC's files were generated for this config file, these seeds and this tree of checkpoints."""
    if not dvc_file.is_file():
        return False
    with dvc_file.open() as file:
        return file.readline().strip() == _header(load_config(config_file), config_file, seeds)


def mirrored_stages(config_file: Path, seeds: Sequence[int]) -> tuple[Path, list[str]] | None:
    """Which stages of DVC's files a run makes: all, or a part if they mirror a config of the same results with more.

    Returns:
        The config file that DVC's files were generated from, and targets for `dvc`, none for all stages. None if there
        are no such files or they are of other results.
    """
    if is_mirror(MIRROR, config_file, seeds):
        return config_file, []
    if not MIRROR.is_file():
        return None
    with MIRROR.open() as file:
        [source] = map(Path, re.findall(r"--config (\S+)`", file.readline()))
    config = load_config(config_file)
    if load_config(source).name != config.name:
        return None
    targets = ["digests"]
    for path, stages in stages_of(jobs_of(config_file, seeds), config, source).items():
        known = yaml.safe_load(path.read_text())["stages"] if path.exists() else {}
        targets += [f"{path}:{name}" for name, stage in stages.items() if known.get(name) == stage]
    return source, targets


def check_mirror(dvc_file: Path, config_file: Path, seeds: Sequence[int]) -> None:
    """Refuse to run under DVC where its files describe other steps than the rules, or the code has changed meanwhile.

    Raises:
        ConfigError: the tree of checkpoints has changed since dvc.yaml was written, or code or settings since
            `dvc repro` began.
    """
    if not is_mirror(dvc_file, config_file, seeds):
        raise ConfigError(
            f"{dvc_file}: was generated for another file, other seeds or another tree of checkpoints than those of "
            f"{config_file}. Run `python -m hermesflow dvc --config {config_file}` and repeat `dvc repro`."
        )
    config = load_config(config_file)
    if read_json(digests_file(config)) != step_digests(config):
        raise ConfigError(
            f"{digests_file(config)}: is of other code or settings than those here now, which were changed after "
            "`dvc repro` began. Repeat it, without --single-item."
        )


def _digests_stage(config: Config, config_file: Path) -> dict[str, Any]:
    file, source = str(digests_file(config)), _relative(config_file)
    modules = {path for stage in READS for _, path in modules_behind(stage, config) if not path.is_relative_to(ROOT)}
    return {
        "cmd": f"python -m hermesflow digests --config {source} --steps {file}",
        "deps": ["src/hermesflow", *sorted(map(_relative, modules))],  # of a backbone of the user's
        "params": [{_relative(file): None} for file in config_files(config_file)],  # all keys
        "outs": [file],
    }


def _header(config: Config, config_file: Path, seeds: Sequence[int]) -> str:
    # What decides which stages there are; DVC watches the digests itself.
    tree = {name: checkpoint.parent for name, checkpoint in config.checkpoints.items()}
    what = {"name": config.name, "seeds": list(seeds), "tree": tree}
    if config.benchmarks:
        what["benchmarks"] = list(config.benchmarks.names)
    digest = digest_of(what)
    return f"# Generated by `python -m hermesflow dvc --config {_relative(config_file)}` (tree {digest}): do not edit."


def jobs_of(config_file: Path, seeds: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rule, wildcards, inputs and outputs of every job of a config; without seeds of those that it names.

    Raises:
        ConfigError: Snakemake cannot list them.
    """
    outside = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    command = [sys.executable, "workflow/scripts/jobs.py", str(config_file), *map(str, seeds)]
    process = subprocess.run(command, capture_output=True, text=True, env=outside)
    if process.returncode or not process.stdout:
        raise ConfigError(f"{config_file}: Snakemake cannot list its jobs. It says: {process.stderr.strip()[-2000:]}")
    return [json.loads(line) for line in process.stdout.splitlines()]


def _file_of(wildcards: dict[str, str]) -> Path:
    if "seed" not in wildcards:
        return MIRROR
    return FOLDER / f"seed{wildcards['seed']}" / wildcards.get("checkpoint", BASE) / MIRROR


def _name_of(job: dict[str, Any]) -> str:
    """`train`, `grade-coco`, `reference-all-100`. Shards share the name of the rule that joins them."""
    which = map(job["wildcards"].get, ("benchmark", "variant"))
    return "-".join([GATHERED_BY.get(job["rule"], job["rule"]), *filter(None, which)])


def _stage(path: Path, jobs: list[dict[str, Any]], config: Config, config_file: Path) -> dict[str, Any]:
    rules = sorted({job["rule"] for job in jobs}, key=lambda rule: rule not in GATHERED_BY)
    last = next(job for job in jobs if job["rule"] == rules[-1])
    outputs = {path for job in jobs for path in job["output"]}
    inputs = {path for job in jobs for path in job["input"]} - outputs
    steps = [step_name(rule, *map(last["wildcards"].get, ("checkpoint", "benchmark"))) for rule in rules]
    metrics = [path for path in last["output"] if Path(path).name == METRICS]
    stage: dict[str, Any] = {"cmd": _command(rules, last["output"][0], config_file)}
    if path != MIRROR:
        stage["wdir"] = "/".join(".." for _ in path.parent.parts)
    if inputs:
        stage["deps"] = sorted(inputs)
    stage["params"] = [{str(digests_file(config)): steps}]
    stage["outs"] = [path for path in last["output"] if path not in metrics]
    if metrics:
        stage["metrics"] = metrics
    return stage


def _command(rules: list[str], target: str, config_file: Path) -> str:
    return (
        f"workflow/run --quiet all --configfile {_relative(config_file)} --allowed-rules {' '.join(rules)} -- {target}"
    )


def _relative(path: Path) -> str:
    path = Path(path).resolve()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)
