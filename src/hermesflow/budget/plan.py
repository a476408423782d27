"""The whole plan of a config: every rule and checkpoint on one machine, as plain figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from hermesflow.budget.disk import disk_of, files_of, transient_bytes
from hermesflow.budget.family import costs_of
from hermesflow.budget.rules import Rules
from hermesflow.config.experiment import BASE, Config, has_judge
from hermesflow.config.tree import reference_of, sampled_checkpoints
from hermesflow.evaluation.registry import image_benchmark
from hermesflow.models.lengths import Lengths
from hermesflow.models.machines import Machine, forwards, total

ONCE = ("data", "tokenizer", "encode", "judge", "clip")
SAMPLED = ("sample", "gather_candidates", "score", "gather_scores")
TRAINED = ("prefer", "reference", "train")
SCATTERED = ("sample", "score")
BOUNDS = (
    "texts are as long as language_model.max_text_tokens, sampling.captions.max_new_tokens and "
    "scoring.max_answer_tokens allow, and none ends early: tokens, FLOPs and memory are upper bounds",
    "every pair is taken to have {questions} questions, which is not in the config (--questions)",
    "sampling, scoring and evaluation run in {inference}; reference and train in {precision}",
    "FLOPs are those of matrix products, attention and convolutions; not counted are sentence encoders, the "
    "image-text extractor, the judge, and models that stage data asks",
    "hours assume {utilisation:.0%} of peak FLOP/s or {bandwidth:.0%} of memory bandwidth, whichever is slower; "
    "start-up, reading, drawing from probabilities, and kernel launches are not in them",
    "memory of float32 work was checked against measured peaks on a CPU; mixed precision was not, nor was any GPU",
    "disk takes images of pairs at their raw size, an upper bound of their PNG files",
)
BENCHMARK_BOUNDS = (
    "benchmarks are of their published sizes ({sizes}) and answers as long as lmms-eval's tasks allow",
    "of models that grade benchmarks memory is that of their weights; {strange}",
)
"""Where a config has real benchmarks."""


@dataclass(frozen=True)
class Line:
    """A rule for one checkpoint, all seeds together."""

    rule: str
    checkpoint: str | None
    benchmark: str | None
    """Of rules that draw, grade or ask for one."""
    jobs: int
    passes: float
    tokens: float
    flops: float
    gpu_hours: float
    """Of one GPU; jobs share nothing."""
    memory: float
    """Bytes of one GPU at the peak."""
    disk: float
    """Bytes that stay."""
    transient: float
    """Bytes that are there while a job runs."""
    files: int


class Place(NamedTuple):
    """A rule, for whom it runs, and its number of jobs."""

    rule: str
    checkpoint: str | None
    jobs: int
    benchmark: str | None = None


def places(config: Config) -> list[Place]:
    """Every rule with its checkpoint, number of jobs and benchmark, in the order of the work."""
    seeds, shards = len(config.seeds), config.runtime.shards
    once = ONCE if has_judge(config) else ONCE[:-1]  # the extractor is the micro world's
    listed = [Place(rule, None, 1) for rule in once]
    listed.append(Place("base", BASE, seeds))
    for name in sampled_checkpoints(config):
        listed += [Place(rule, name, seeds * (shards if rule in SCATTERED else 1)) for rule in SAMPLED]
    listed.append(Place("agreement", BASE, seeds))
    first = {reference_of(config, name): name for name in reversed(config.checkpoints)}
    listed += [
        Place(rule, name, seeds)
        for name in config.checkpoints
        for rule in TRAINED
        if rule != "reference" or first[reference_of(config, name)] == name
    ]
    names = (BASE, *config.checkpoints)
    listed += [Place("evaluate", name, seeds) for name in names]
    if benchmarks := config.benchmarks:
        for benchmark in benchmarks.image_benchmarks:
            listed += [
                Place("draw", name, seeds * (shards if image_benchmark(benchmark).sharded else 1), benchmark)
                for name in names
            ]
            listed += [Place(rule, name, seeds, benchmark) for rule in ("gather_drawn", "grade") for name in names]
        listed += [Place("understand", name, seeds, column) for column in benchmarks.columns for name in names]
    return [*listed, Place("report", None, 1)]


def plan(config: Config, machine: Machine, *, lengths: Lengths, utilisation: float) -> list[Line]:
    """Every rule and checkpoint.

    Args:
        config: the experiment.
        machine: what it runs on.
        lengths: of texts, and the number of questions.
        utilisation: share of the peak FLOP/s that is reached.
    """
    rules, decoder = Rules(config, lengths, machine.gpus), costs_of(config).Decoder.of(config)
    lines = []
    for rule, checkpoint, jobs, benchmark in places(config):
        load = rules.load(rule, checkpoint, benchmark)
        passes = load.passes if load else []
        seeds = 1 if rule in ONCE or rule == "report" else len(config.seeds)
        seconds = sum(
            one.seconds(
                machine.gpu,
                precision=load.precision if load else "no",
                utilisation=utilisation,
            )
            for one in passes
        )
        lines.append(
            Line(
                rule=rule,
                checkpoint=checkpoint,
                benchmark=benchmark,
                jobs=jobs,
                passes=seeds * forwards(passes),
                tokens=seeds * total(passes, "tokens"),
                flops=seeds * total(passes, "flops"),
                gpu_hours=seeds * seconds / 3600,
                memory=load.memory if load else 0,
                disk=seeds * disk_of(config, rule, checkpoint, decoder, lengths, benchmark),
                transient=transient_bytes(config, rule, decoder),
                files=files_of(config, rule, jobs),
            )
        )
    return lines


def by(key: Literal["rule", "checkpoint", "benchmark"], lines: list[Line]) -> list[Line]:
    """Lines of one rule, checkpoint or benchmark added up, those of none left out; of memory the most counts."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        if (name := getattr(line, key)) is not None:
            groups.setdefault(name, []).append(line)
    return [added(group, name=name) for name, group in groups.items()]


def added(lines: list[Line], *, name: str) -> Line:
    """One line for several, called `name`."""
    summed: dict[str, Any] = {
        field: sum(getattr(line, field) for line in lines)
        for field in ("jobs", "passes", "tokens", "flops", "gpu_hours", "disk", "files")
    }
    most = {field: max(getattr(line, field) for line in lines) for field in ("memory", "transient")}
    return Line(rule=name, checkpoint=None, benchmark=None, **summed, **most)
