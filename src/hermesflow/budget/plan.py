"""The whole plan of a config: every rule and checkpoint on one machine, as plain figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hermesflow.benchmark_sections import shards_of
from hermesflow.budget.decoder import Decoder
from hermesflow.budget.disk import disk_of, files_of, transient_bytes
from hermesflow.budget.lengths import Lengths
from hermesflow.budget.machines import Machine, forwards, total
from hermesflow.budget.rules import Rules
from hermesflow.config import BASE, Config, has_judge

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
    "models that grade benchmarks (detector, CLIP, Inception, VQA model, local judge) are not counted, neither their "
    "FLOPs nor their memory; what an endpoint costs is said before it is asked",
)
"""Where a config has real benchmarks."""


@dataclass(frozen=True)
class Line:
    """A rule for one checkpoint, all seeds together."""

    rule: str
    checkpoint: str | None
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


def places(config: Config) -> list[tuple[str, str | None, int]]:
    """Every rule with its checkpoint and number of jobs, in the order of the work."""
    seeds, shards = len(config.seeds), config.runtime.shards
    once = ONCE if has_judge(config) else ONCE[:-1]  # the extractor is the micro world's
    found: list[tuple[str, str | None, int]] = [(rule, None, 1) for rule in once]
    found.append(("base", BASE, seeds))
    for name in config.sampled_checkpoints():
        found += [(rule, name, seeds * (shards if rule in SCATTERED else 1)) for rule in SAMPLED]
    found.append(("agreement", BASE, seeds))
    found += [
        (rule, name, seeds)
        for name in config.checkpoints
        for rule in TRAINED
        if rule != "reference" or config.reference_of(name) == name
    ]
    found += [("evaluate", name, seeds) for name in (BASE, *config.checkpoints)]
    if own := config.benchmarks:
        counts = {
            "draw": sum(shards_of(benchmark, shards) for benchmark in own.drawn),
            **dict.fromkeys(("gather_drawn", "grade"), len(own.drawn)),
            "understand": len(own.columns),
        }
        names = (BASE, *config.checkpoints)
        found += [(rule, name, seeds * count) for rule, count in counts.items() if count for name in names]
    return [*found, ("report", None, 1)]


def plan(config: Config, machine: Machine, *, lengths: Lengths, utilisation: float) -> list[Line]:
    """Every rule and checkpoint.

    Args:
        config: the experiment.
        machine: what it runs on.
        lengths: of texts, and the number of questions.
        utilisation: share of the peak FLOP/s that is reached.
    """
    rules, decoder = Rules(config, lengths, machine.gpus), Decoder.of(config)
    lines = []
    for rule, checkpoint, jobs in places(config):
        load = rules.load(rule, checkpoint)
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
                jobs=jobs,
                passes=seeds * forwards(passes),
                tokens=seeds * total(passes, "tokens"),
                flops=seeds * total(passes, "flops"),
                gpu_hours=seeds * seconds / 3600,
                memory=load.memory if load else 0,
                disk=seeds * disk_of(config, rule, checkpoint, decoder, lengths),
                transient=transient_bytes(config, rule, decoder),
                files=files_of(config, rule, jobs),
            )
        )
    return lines


def by_rule(lines: list[Line]) -> list[Line]:
    """Lines of one rule added up over checkpoints; of memory and what is transient the most counts."""
    rules: dict[str, list[Line]] = {}
    for line in lines:
        rules.setdefault(line.rule, []).append(line)
    return [added(own, rule=rule) for rule, own in rules.items()]


def added(lines: list[Line], *, rule: str) -> Line:
    """One line for several."""
    summed: dict[str, Any] = {
        name: sum(getattr(line, name) for line in lines)
        for name in ("jobs", "passes", "tokens", "flops", "gpu_hours", "disk", "files")
    }
    most = {name: max(getattr(line, name) for line in lines) for name in ("memory", "transient")}
    return Line(rule=rule, checkpoint=None, **summed, **most)
