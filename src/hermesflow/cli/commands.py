"""Subcommands that are no stage: for users beside a run, and for developers.

Libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hermesflow.cli.options import BENCHMARK, DEFAULT_CONFIG, add_option, new_command, positive


def add_commands(commands: Any) -> None:
    """Add all of them to argparse's subcommands."""
    _plan_command(commands)
    sync = commands.add_parser("sync", help="log all results to MLflow; what it has already stays as it is")
    sync.add_argument("--results", type=Path, default=Path("results"), help="folder of all results")
    sync.set_defaults(run=_sync)
    fetch = new_command(commands, "fetch", "fetch what a config needs from the hub and check it", _fetch)
    fetch.add_argument("--pin", action="store_true", help="print revisions and checksums to put into the config")
    reference = commands.add_parser("fid-reference", help="statistics of COCO's real images for the FID")
    reference.add_argument("--config", type=Path, required=True, help="a config with section benchmarks.coco")
    reference.add_argument("--images", type=Path, required=True, help="folder of COCO's val2014")
    reference.add_argument("--threads", type=positive, default=1, help="CPU threads (default 1)")
    reference.set_defaults(run=_fid_reference)
    export = new_command(
        commands, "export-images", "a benchmark's images as files, for its original scripts", _export_images
    )
    for option in BENCHMARK:
        add_option(export, option)
    export.add_argument("--to", type=Path, required=True, help="a new folder")
    publish = new_command(commands, "publish", "copy tables, figures and a manifest into docs/results", _publish)
    add_option(publish, "seeds", required=False)
    publish.add_argument("--to", type=Path, default=Path("docs/results"), help="default docs/results")
    publish.add_argument("--readme", type=Path, help="fill the results section of this README too")
    dag = commands.add_parser("dag", help="put Snakemake's rule graph (mermaid, on stdin) into pages")
    dag.add_argument("--readme", type=Path, default=Path("README.md"), help="gets eight nodes; default README.md")
    dag.add_argument("--page", type=Path, default=Path("docs/workflow.md"), help="gets all rules; default %(default)s")
    dag.set_defaults(run=_dag)
    new_command(commands, "dvc", "write DVC's files from the rules", _dvc)
    digests = new_command(commands, "digests", "print a digest of the code of every stage, as JSON", _digests)
    digests.add_argument("--steps", type=Path, help="write digests of code and settings of every step to this file")
    schema = commands.add_parser("schema", help="print the JSON schema of a config file")
    schema.set_defaults(run=_schema)


def _plan_command(commands: Any) -> None:
    plan = commands.add_parser(
        "plan", help="what a config costs: FLOPs, GPU-hours, memory, disk and files of each rule"
    )
    plan.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default %(default)s")
    plan.add_argument("--json", action="store_true", help="every rule and checkpoint as JSON, in plain units")
    plan.add_argument("--machines", nargs="+", metavar="NxGPU", help="default 1xh100 8xa100")
    plan.add_argument("--utilisation", type=float, help="share of peak FLOP/s that is reached, default 0.4")
    plan.add_argument("--questions", type=positive, help="questions a pair has, default 10")
    plan.add_argument("--tflops", type=float, nargs=2, metavar=("BF16", "FLOAT32"), help="peak of a GPU, dense")
    plan.add_argument("--memory", type=float, help="GB of a GPU")
    plan.add_argument("--bandwidth", type=float, help="TB/s of a GPU's memory")
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> None:
    from hermesflow.budget import table
    from hermesflow.config.load import load_config
    from hermesflow.core.errors import ConfigError
    from hermesflow.models.lengths import QUESTIONS, Lengths
    from hermesflow.models.machines import MACHINES, UTILISATION

    utilisation = arguments.utilisation or UTILISATION
    if not 0 < utilisation <= 1:
        raise ConfigError(f"--utilisation {utilisation}: a share, above 0 and at most 1.")
    machines = table.machines_of(
        arguments.machines or MACHINES,
        tflops=arguments.tflops,
        memory=arguments.memory,
        bandwidth=arguments.bandwidth,
    )
    config = load_config(arguments.config)
    lengths = Lengths.of(config, questions=arguments.questions or QUESTIONS)
    write = table.as_json if arguments.json else table.as_text
    print(write(config, machines, lengths=lengths, utilisation=utilisation), end="")


def _sync(arguments: argparse.Namespace) -> None:
    from hermesflow.tracking.runs import sync

    for line in sync(arguments.results):
        print(line, flush=True)


def _fetch(arguments: argparse.Namespace) -> None:
    from hermesflow.cli.fetching import fetch_all, pinned_yaml
    from hermesflow.config.load import load_config

    config = load_config(arguments.config)
    if arguments.pin:
        print(pinned_yaml(config), end="")
        return
    folders = fetch_all(config)
    for key, folder in folders.items():
        print(f"{key}: {folder}")
    if not folders:
        print(f"{arguments.config} names nothing on the hub: nothing to fetch")


def _fid_reference(arguments: argparse.Namespace) -> None:
    from hermesflow.config.load import load_config
    from hermesflow.core.errors import ConfigError
    from hermesflow.evaluation.graders.fid_reference import make_reference

    config = load_config(arguments.config)
    if (coco := getattr(config.benchmarks, "coco", None)) is None:
        raise ConfigError(
            f"{arguments.config}: has no section `benchmarks.coco`, which names the captions, the Inception weights "
            "and the file to write. Add it (docs/benchmarks.md)."
        )
    make_reference(coco, arguments.images, device=config.runtime.device)


def _export_images(arguments: argparse.Namespace) -> None:
    from hermesflow.config.load import load_config
    from hermesflow.core.files import Layout
    from hermesflow.evaluation.exporting import export_images

    config = load_config(arguments.config)
    options = {name: getattr(arguments, name) for name in BENCHMARK}
    export_images(config, Layout(arguments.results / config.name), **options, folder=arguments.to)


def _publish(arguments: argparse.Namespace) -> None:
    from hermesflow.config.load import load_config
    from hermesflow.core.files import Layout
    from hermesflow.report.publish import fill_readme, publish, write_page

    config = load_config(arguments.config)
    layout, target = Layout(arguments.results / config.name), arguments.to / config.name
    publish(config, layout, target, seeds=arguments.seeds or config.seeds)
    write_page(target)
    if arguments.readme:
        fill_readme(arguments.readme, target, config)


def _dag(arguments: argparse.Namespace) -> None:
    from hermesflow.report.publish import fill_dag

    fill_dag(arguments.readme, arguments.page, sys.stdin.read())


def _dvc(arguments: argparse.Namespace) -> None:
    from hermesflow.cli.dvc import write_mirror

    write_mirror(arguments.config)


def _digests(arguments: argparse.Namespace) -> None:
    from hermesflow.config.digests import code_digests, step_digests
    from hermesflow.config.load import load_config
    from hermesflow.core.files import write_json

    config = load_config(arguments.config)
    if arguments.steps:
        write_json(arguments.steps, step_digests(config))
        return
    print(json.dumps(code_digests(config), indent=2, sort_keys=True))


def _schema(arguments: argparse.Namespace) -> None:
    from hermesflow.config.experiment import config_schema

    print(json.dumps(config_schema(), indent=2))
