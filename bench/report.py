"""What the bench leaves: lines on the screen, latest.json, two figures, a run in MLflow."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from matplotlib import rc_context
from matplotlib.figure import Figure

from hermesflow.core.files import git_revision
from hermesflow.core.processor import MatrixKernel, matrix_kernel, processor
from hermesflow.report.figures import FAINT, GENERATION, INK, STYLE, UNDERSTANDING, new_figure, save
from hermesflow.tracking.store import Store

FRACTION_BAR = 0.85
_FIGURES = (
    *("time_ratio", "memory_ratio", "fraction_of_limit", "seconds", "plain_seconds", "limit_seconds"),
    *("flops_per_second", "flops_of_peak", "time_ratio_limit"),
)
MIB = 2**20


def told(entry: Mapping[str, Any]) -> str:
    """An entry on a few lines."""
    part = "; ".join(
        f"{who} measured on {entry[key]:.2%} of the work"
        for who, key in (("ours", "ours_measured"), ("plain", "plain_measured"))
        if entry[key] < 1
    )
    same = "" if entry["same"] is None else f"  results {'agree' if entry['same'] else 'DIFFER'}\n"
    return (
        f"{entry['family']} {entry['name']}: {entry['about']}\n"
        f"  {entry['seconds']:.3f} s, plain {entry['plain_seconds']:.2f} s: {entry['time_ratio']:.2f} times as fast; "
        f"limit {entry['limit_seconds']:.3f} s, which is {entry['time_ratio_limit']:.2f} times: "
        f"{entry['fraction_of_limit']:.1%} of it\n"
        f"  memory {entry['memory'] / MIB:.0f} MiB, plain {entry['plain_memory'] / MIB:.0f} MiB: "
        f"{entry['memory_ratio']:.2f} times\n"
        f"  {entry['flops_per_second'] / 1e9:.1f} GFLOP/s, {entry['flops_of_peak']:.1%} of matrix products; "
        f"{entry['flops'] / entry['limit_flops']:.3f} times the FLOPs of the limit\n"
        f"{same}" + (f"  {part}\n" if part else "")
    )


def rule(rates: Mapping[MatrixKernel, float]) -> str:
    """Whether the kernel that the processor's rule chooses is the faster one here."""
    chosen, fastest = matrix_kernel(), max(rates, key=lambda name: rates[name])
    figures = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    slower = f"{1 - rates[chosen] / rates[fastest]:.0%} slower than {fastest}"
    verdict = "the faster one" if chosen == fastest else slower
    return f"float32 products on {processor()}: {figures}; the rule chooses {chosen}, {verdict}"


def about_machine(machine: Mapping[str, float], size: str) -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "git": git_revision()}
    return {"size": size, "threads": torch.get_num_threads(), "cpu": cpu, **versions, **machine}


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Both figures as PNG."""
    figures = {"ratios": ratios(results["benchmarks"]), "growth": growth(results["growth"], results["shards"])}
    paths = []
    for name, figure in figures.items():
        if figure:
            save(figure, path := folder / f"{name}.png")
            paths.append(path)
    return paths


def ratios(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Time and memory against the plain path with their limits, and how near the limit is."""
    names = [f"{entry['family']}\n" + entry["name"].replace("_", "\n") for entry in entries]
    places = range(len(entries))
    with rc_context(STYLE):
        figure = new_figure(max(10.0, 1.8 * len(entries)), 3.2)
        time_, memory, limit = figure.subplots(1, 3)
        for axes, key, color in ((time_, "time_ratio", UNDERSTANDING), (memory, "memory_ratio", GENERATION)):
            axes.bar(places, [entry[key] for entry in entries], 0.6, color=color)
            axes.set_yscale("log")
            axes.axhline(1, color=FAINT, linewidth=0.8)
        limit.bar(places, [entry["fraction_of_limit"] for entry in entries], 0.6, color=UNDERSTANDING)
        limit.axhline(FRACTION_BAR, color=FAINT, linewidth=1.0, linestyle="--", label="wanted")
        limit.axhline(1, color=INK, linewidth=0.8)
        for k, entry in enumerate(entries):
            time_.hlines(entry["time_ratio_limit"], k - 0.4, k + 0.4, color=INK, label="limit" if k == 0 else None)
            if entry["bar"]:
                time_.hlines(
                    entry["bar"], k - 0.4, k + 0.4, color=FAINT, linestyle="--", label="wanted" if k == 0 else None
                )
        for axes, title in ((time_, "Times as fast"), (memory, "Times less memory"), (limit, "Share of the limit")):
            axes.set_title(title)
            axes.set_xticks(places, names, fontsize=7)
        time_.legend()
        limit.legend()
        return figure


def growth(curves: Sequence[Mapping[str, Any]], shards: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Seconds over n with the fitted line; throughput over the size of a shard."""
    if not curves:
        return None
    with rc_context(STYLE):
        figure = new_figure(3.0 * (len(curves) + 1), 3.0)
        panels = figure.subplots(1, len(curves) + 1)
        for axes, curve in zip(panels, curves, strict=False):
            ends = [0, max(curve["n"])]
            axes.plot(ends, [curve["intercept"] + curve["slope"] * n for n in ends], color=FAINT, linewidth=1.2)
            axes.plot(curve["n"], curve["seconds"], "o", color=UNDERSTANDING, markersize=4)
            axes.set_title(f"{curve['slope']:.3g} s each, R² {curve['r2']:.4f}", fontsize=8)
            axes.set_xlabel(curve["name"], fontsize=7.5)
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("seconds")
        for shard, color in zip(shards, (GENERATION, UNDERSTANDING), strict=True):
            relative = [rate / shard["per_second"][0] for rate in shard["per_second"]]
            panels[-1].plot(shard["pairs"], relative, "o-", color=color, markersize=4, label=shard["name"])
        panels[-1].set_title("Throughput against that of one pair", fontsize=8)
        panels[-1].set_xlabel("pairs of a shard", fontsize=7.5)
        panels[-1].set_ylim(bottom=0)
        panels[-1].legend(fontsize=6)
        return figure


def log(results: Mapping[str, Any], folder: Path, options: Mapping[str, object]) -> None:
    """Keep all in MLflow, experiment `bench`, in the store of the runs: the one beside the results folder.

    What cannot be logged is said and does no harm.
    """
    store, machine, now = Store(folder.resolve().parent), results["machine"], time.time_ns() // 1_000_000

    def send() -> None:
        tags = {"hermesflow.bench": str(now), "mlflow.source.git.commit": git_revision()}
        run_id = store.run("bench", f"bench {machine['size']}, {machine['git'][:8]}", now, tags).info.run_id
        store.log_params(run_id, {key: str(value) for key, value in {**machine, **options}.items()})
        store.log_points(run_id, [(key, value, now, 0) for key, value in metrics(results).items()])
        store.client.log_artifacts(run_id, str(folder))
        store.client.set_terminated(run_id)

    store.attempt(send)


def metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Every figure under a name of its own."""
    entries = results["benchmarks"]
    found = {f"{entry['family']}/{entry['name']}/{key}": entry[key] for entry in entries for key in _FIGURES}
    for curve in results["growth"]:
        found |= {f"growth/{_metric_name(curve['name'])}/{key}": curve[key] for key in ("slope", "intercept", "r2")}
    for shard in results["shards"]:
        found[f"shards/{_metric_name(shard['name'])}/last_over_first"] = shard["last_over_first"]
    return found | {f"loading/{key}": value for key, value in results["loading"].items()}


def _metric_name(text: str) -> str:
    return text.replace(",", "")
