"""Measure the hot paths against the plain path and against what counting allows; one process, one thread, CPU time.

    python -m bench [--family NAME ...] [--only NAME ...] [--size medium|tiny] [--full]

Writes results/bench/latest.json and two figures, and logs them to MLflow. All on the same random weights in float32
(sizes.py). Show-o's plain path (plain.py) takes minutes where ours takes seconds, so by default some of its tokens and
steps are measured and scaled by their FLOPs; --full measures all of both. That of models which write images token by
token keeps keys and values, and shares nothing (cached.py). Limits: limits.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from bench import growth, limits, measuring, report, sizes, works
from bench.limits import Machine
from hermesflow.core.files import write_json
from hermesflow.core.processor import matrix_kernel
from hermesflow.models import backbone


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=works.NAMES, metavar="NAME", help=f"of {', '.join(works.NAMES)}")
    known = sorted(backbone.families(), key=lambda family: family != "showo")
    parser.add_argument(
        "--family", nargs="+", choices=known, default=known, metavar="NAME", help=f"of {', '.join(known)}"
    )
    parser.add_argument("--size", choices=sizes.SIZES, default="medium")
    parser.add_argument("--full", action="store_true", help="measure all of both paths: half an hour")
    parser.add_argument("--repeats", type=int, default=3, help="runs to take the median of (default 3)")
    parser.add_argument("--output", type=Path, default=Path("results/bench/latest.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(
        arguments.size, arguments.only, families=arguments.family, full=arguments.full, repeats=arguments.repeats
    )
    write_json(arguments.output, results)
    report.draw(results, arguments.output.parent)
    options = {"full": arguments.full, "repeats": arguments.repeats, "only": " ".join(arguments.only or works.NAMES)}
    options["family"] = " ".join(arguments.family)
    report.log(results, arguments.output.parent, options)


def measure(name: str, only: list[str] | None, *, families: Sequence[str], full: bool, repeats: int) -> dict[str, Any]:
    """All entries asked for; growth, shards and loading of the first family too where all are."""
    warm_up(families)
    entries, loading, curves, shards = [], {}, [], []
    for family in families:
        size = sizes.SIZES[name].of(family)
        model = sizes.random_model(size)
        for work, make in works.works(size, model, full=full).items():
            if only is None or work in only:
                bar = works.bars(model).get(work) if name == "medium" else None
                entries.append(measuring.entry(work, make(), family=family, bar=bar, repeats=repeats, size=name))
                print(report.told(entries[-1]), flush=True)
        if only is not None or family != families[0]:
            continue
        loading = growth.loading(size, model, entries[-1]["seconds"])
        print(f"loading a batch: {loading['seconds'] * 1000:.2f} ms, {loading['share']:.3%} of a step\n", flush=True)
        for curve in growth.curves(size, model):
            curves.append(curve)
            print(f"{curve['name']}: {curve['slope']:.4f} s each, R2 {curve['r2']:.4f}", flush=True)
        for shard in growth.shards(size, model):
            shards.append(shard)
            speeds = ", ".join(f"{speed:.3g}" for speed in shard["per_second"])
            print(f"{shard['name']}: {speeds} a second for {shard['pairs']} pairs", flush=True)
    shape = sizes.SIZES[name].shape
    rates = limits.kernel_rates(rows=512, inputs=shape.hidden_size, outputs=shape.intermediate_size)
    print(report.rule(rates), flush=True)
    machine = reduce(Machine.best, (Machine(**entry["machine"]) for entry in entries)).plain()
    return {
        "benchmarks": entries,
        "machine": report.about_machine(machine, name),
        "kernels": {"rule": matrix_kernel(), "flops_per_second": rates},
        "growth": curves,
        "shards": shards,
        "loading": loading,
    }


def warm_up(families: Sequence[str]) -> None:
    """Both paths once on a tiny model: libraries are loaded, so that no first run pays for it."""
    for size in (sizes.SIZES["tiny"].of(family) for family in families):
        for make in works.works(size, sizes.random_model(size), full=True).values():
            work = make()
            for side in (work.ours, work.plain):
                side.prepare()()


if __name__ == "__main__":
    main()
