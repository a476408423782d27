"""The plan as tables for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from tabulate import tabulate

from hermesflow.budget import graders
from hermesflow.budget.benchmarks import drawings, tasks_of
from hermesflow.budget.family import costs_of
from hermesflow.budget.plan import BENCHMARK_BOUNDS, BOUNDS, Line, added, by, plan
from hermesflow.config.experiment import BASE, Config
from hermesflow.config.judges import Endpoint
from hermesflow.evaluation.registry import image_benchmark
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import BANDWIDTH_UTILISATION, Machine, machine_of

GB = 1e9
_ALL = "all"
_MENDS = {
    "encode": "images go through the tokenizer in batches that no key changes",
    "judge": "images go through the tokenizer in batches that no key changes",
    "sample": "lower sampling.batch_pairs",
    "score": "lower scoring.batch_images, down to sampling.images.n",
    "agreement": "lower scoring.batch_images, down to sampling.images.n",
    "reference": "lower training.micro_batch_size",
    "train": "lower training.micro_batch_size, or set runtime.activation_checkpointing or training.lora",
    "draw": "images are drawn in batches that no key changes",
    "grade": "lower scoring.batch_images",
    "understand": "lower benchmarks.understanding.batch_size",
    "evaluate": "lower scoring.batch_images; but images are drawn in batches that no key changes",
}
_UNITS = ("", " k", " M", " G", " T", " P", " E", " Z")


def machines_of(
    names: Sequence[str], *, tflops: Sequence[float] | None, memory: float | None, bandwidth: float | None
) -> list[Machine]:
    """The machines to plan for, with a user's own figures in place of the data sheets'.

    Args:
        names: such as `8xa100`.
        tflops: peak TFLOP/s in bf16 and in float32.
        memory: GB per GPU.
        bandwidth: TB/s per GPU.

    Raises:
        ConfigError: a name that says nothing.
    """
    machines = []
    for name in names:
        machine = machine_of(name)
        gpu = machine.gpu
        if tflops:
            half, float32 = (value * 1e12 for value in tflops)
            gpu = replace(gpu, flops={"no": float32, "bf16": half, "fp16": half})
        gpu = replace(gpu, memory=memory * GB if memory else gpu.memory)
        gpu = replace(gpu, bandwidth=bandwidth * 1e12 if bandwidth else gpu.bandwidth)
        machines.append(replace(machine, gpu=gpu))
    return machines


def as_json(config: Config, machines: Sequence[Machine], *, lengths: Lengths, utilisation: float) -> str:
    """Every rule and checkpoint on every machine, in plain units (bytes, FLOPs, hours)."""
    plans = {m.name: plan(config, m, lengths=lengths, utilisation=utilisation) for m in machines}
    content = {
        "config": config.name,
        "parameters": costs_of(config).Decoder.of(config).parameters,
        "lengths": asdict(lengths),
        "assumptions": _bounds(config, lengths, utilisation),
        "machines": {
            machine.name: {
                "gpu": asdict(machine.gpu),
                "lines": [asdict(line) for line in plans[machine.name]],
                "total": asdict(added(plans[machine.name], name=_ALL)),
                "does not fit": _misfits(plans[machine.name], machine),
            }
            for machine in machines
        },
        "endpoint": {name: asdict(one) for name, one in _bills(config, lengths).items()},
    }
    return json.dumps(content, indent=2) + "\n"


def as_text(config: Config, machines: Sequence[Machine], *, lengths: Lengths, utilisation: float) -> str:
    """A table by rule, one by checkpoint, one by benchmark, what does not fit, an endpoint's price, and assumptions."""
    plans = [plan(config, machine, lengths=lengths, utilisation=utilisation) for machine in machines]
    grids = [_grid("rule", [[*by("rule", lines), added(lines, name=_ALL)] for lines in plans], machines)]
    grids.append(_grid("checkpoint", [by("checkpoint", lines) for lines in plans], machines))
    if config.benchmarks:
        grids.append(_grid("benchmark", [by("benchmark", lines) for lines in plans], machines))
    decoder = costs_of(config).Decoder.of(config)
    shape = f"{_short(decoder.parameters)} parameters, {decoder.image_tokens:,} tokens an image"
    parts = [
        f"Plan of config {config.name}: {shape}, {len(config.seeds)} seeds.",
        "",
        *(f"{grid}\n" for grid in grids),
    ]
    for machine, lines in zip(machines, plans, strict=True):
        hours = sum(line.gpu_hours for line in lines)
        spread = f" ({_hours(hours / machine.gpus)} hours if all GPUs were always busy)" if machine.gpus > 1 else ""
        parts.append(f"{machine.name}: {_hours(hours)} GPU-hours{spread}.")
        parts += [f"  does not fit: {text}" for text in _misfits(lines, machine)]
    transient = max(line.transient for line in plans[0] if line.rule == "train")
    parts.append(f"Besides, a training keeps up to {transient / GB:,.1f} GB of states while it runs.")
    parts += _endpoint(config, lengths)
    parts += [f"- {text}" for text in _bounds(config, lengths, utilisation)]
    return "\n".join(parts) + "\n"


def _bills(config: Config, lengths: Lengths) -> dict[str, graders.Bill]:
    bills = {name: graders.bill(config, name, lengths) for name in (BASE, *config.checkpoints)}
    return {name: one for name, one in bills.items() if one}


def _endpoint(config: Config, lengths: Lengths) -> list[str]:
    """What an endpoint costs at most, in words."""
    bills = _bills(config, lengths)
    if not bills:
        return []
    gap = config.benchmarks and config.benchmarks.gap
    assert gap and isinstance(gap.judge, Endpoint)
    all_of = {key: sum(getattr(one, key) for one in bills.values()) for key in asdict(bills[BASE])}
    minutes = all_of["requests"] / gap.judge.pace.requests_per_minute
    each = ", ".join(f"{name} {one.dollars:,.0f}" for name, one in bills.items())
    return [
        f"Endpoint ({gap.judge.model}): at most {all_of['requests']:,.0f} requests, "
        f"{_short(all_of['prompt_tokens'])} tokens in and {_short(all_of['completion_tokens'])} out, "
        f"{all_of['dollars']:,.0f} US dollars ({each}), and {_hours(minutes / 60)} hours at its pace. Questions about "
        f"real images are paid for once, with {BASE}; answers in its cache cost nothing."
    ]


def _misfits(lines: Sequence[Line], machine: Machine) -> list[str]:
    have = machine.gpu.memory
    return [
        f"{line.rule} needs {line.memory / GB:,.0f} GB of {have / GB:,.0f}; {_MENDS.get(line.rule, 'take larger GPUs')}"
        for line in by("rule", list(lines))
        if line.memory > have
    ]


_NAMES = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


def _bounds(config: Config, lengths: Lengths, utilisation: float) -> list[str]:
    known: dict[str, Any] = {
        "questions": lengths.questions,
        "precision": _NAMES[config.runtime.precision],
        "inference": _NAMES[config.runtime.inference_precision],
        "utilisation": utilisation,
        "bandwidth": BANDWIDTH_UTILISATION,
        "sizes": _sizes(config),
        "strange": _strange(config),
    }
    bounds = [*BOUNDS, *(BENCHMARK_BOUNDS if config.benchmarks else ())]
    return [*(text.format(**known) for text in bounds), *_guesses(config)]


def _strange(config: Config) -> str:
    names = graders.unknown(config)
    return f"nothing is known here of {', '.join(names)}, which are not counted" if names else "all of them are counted"


def _guesses(config: Config) -> list[str]:
    known = {name: image_benchmark(name).questions for name in drawings(config)}
    text = "an image of {} is taken to have {} questions, which the file will tell"
    return [text.format(name, count) for name, count in known.items() if count]


def _sizes(config: Config) -> str:
    images = [f"{name} {one.total:,} images" for name, one in drawings(config).items()]
    tasks = tasks_of(config)
    questions = f"understanding {sum(task.questions for task in tasks):,} questions in {len(tasks)} tasks"
    return ", ".join([*images, *([questions] if tasks else [])])


def _grid(first: str, columns: Sequence[Sequence[Line]], machines: Sequence[Machine]) -> str:
    headers = [first, "jobs", "passes", "tokens", "FLOPs"]
    for machine in machines:
        headers += [f"GPU-h\n{machine.name}", "GB\na GPU"]
    rows = []
    for lines in zip(*columns, strict=True):
        line = lines[0]
        row = [line.rule, f"{line.jobs:,}", _short(line.passes), _short(line.tokens), _short(line.flops)]
        for machine_line in lines:
            row += [_hours(machine_line.gpu_hours), f"{machine_line.memory / GB:,.1f}"]
        rows.append([*row, f"{line.disk / GB:,.2f}", f"{line.files:,}"])
    headers += ["disk GB", "files"]
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=["left", *["right"] * (len(headers) - 1)])


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _short(value: float) -> str:
    power = 0
    while value >= 1000 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g}{_UNITS[power]}"
