"""The config keys that each stage reads, and their values: what a step is made from besides its input files and code.

Defaults count: the values are those of the config as it was read, not of the file.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hermesflow.config.benchmarks import section_of
from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.judges import HOW, Endpoint, LocalVlm

_JUDGE = {field.name for judge in (Endpoint, LocalVlm) for field in fields(judge)} - set(HOW)
_PARTS = {"benchmarks.gap": tuple(f"benchmarks.gap.judge.{name}" for name in _JUDGE)}
"""Sections of which some keys say how a step runs alone: the others, one by one."""
_MODEL = ("data.image_size", "image_tokenizer", "language_model")
READS: dict[str, tuple[str, ...]] = {
    "data": (
        *("data", "evaluation.dense_prompts"),
        *("evaluation.geneval_prompts", "evaluation.understanding_images"),
    ),
    "tokenizer": (
        "language_model.family",
        "data.image_size",
        "image_tokenizer",
        "tokenizer_training",
        "weights.image_tokenizer",
    ),
    "encode": (),
    "judge": (),
    "clip": ("data.seed", "evaluation.clip_steps"),
    "base": (*_MODEL, "base_training", "weights.language_model"),
    "sample": ("sampling",),
    "gather_candidates": ("sampling",),
    "score": ("sampling.images.n", "scoring"),
    "gather_scores": ("sampling", "scoring"),
    "agreement": ("scoring",),
    "prefer": ("preferences", "checkpoint.parent", "checkpoint.candidates"),
    "reference": (
        *("training.steps", "training.batch_size", "training.micro_batch_size"),
        "training.mask_schedule",
        *("checkpoint.parent", "checkpoint.steps"),
    ),
    "train": ("training", "checkpoint"),
    "evaluate": (
        *("data.gap_pairs", "evaluation", "scoring"),
        *("sampling.images", "sampling.captions.max_new_tokens"),
    ),
    "draw": ("sampling.images", "benchmark.prompts", "benchmark.captions", "benchmark.images"),
    "gather_drawn": ("benchmark.prompts", "benchmark.captions", "benchmark.images"),
    "grade": ("benchmark", "evaluation.bootstrap", "scoring"),
    "understand": ("benchmark.karpathy", "benchmark.tasks", "benchmark.vqav2_submission"),
    "report": (
        "benchmark",
        "name",
        "seeds",
        "checkpoints",
        "evaluation.bootstrap",
        "evaluation.confidence",
        "sampling",
    ),
}
"""Config keys each stage reads; `checkpoint` stands for the checkpoint's own entry in the tree, `benchmark` for the
benchmark's own section, or for all of `benchmarks` where a stage is given none. `runtime` is left out: it changes how a
step runs, not what it makes. Of a model on disk nothing is read from the config."""
OF_BENCHMARK = {
    "benchmark.karpathy": "flickr30k",
    "benchmark.vqav2_submission": "vqav2",
    "evaluation.bootstrap": "coco",
    "scoring": "gap",
}
"""Keys that one benchmark alone reads."""


def reads(stage: str, checkpoint: str | None = None, benchmark: str | None = None) -> list[str]:
    """Dotted keys of the config file that a stage reads, for one checkpoint where it works on one (base has no own).

    Likewise for one benchmark.
    """
    own = f"checkpoints.{checkpoint}"
    known = [key for key in READS[stage] if checkpoint != BASE or not _is_own(key)]
    if benchmark is not None:
        known = [key for key in known if OF_BENCHMARK.get(key, benchmark) == benchmark]
    keys = [own + key.removeprefix("checkpoint") if _is_own(key) else key for key in known]
    named = {_of_benchmark(key, benchmark) for key in keys}
    return sorted({part for key in named for part in _PARTS.get(key, (key,))})


def params_of(
    config: Config, stage: str, checkpoint: str | None = None, benchmark: str | None = None
) -> dict[str, Any]:
    """The values behind `reads`, as plain JSON types; a config without benchmarks has none of theirs.

    Within a section, keys that are None are left out: an optional key that a later version adds changes nothing.
    """
    plain = as_plain(config)
    keys = [key for key in reads(stage, checkpoint, benchmark) if config.benchmarks or not _is_benchmarks(key)]
    return {key: _given(_look_up(plain, key)) for key in keys}


def _is_own(key: str) -> bool:
    return key == "checkpoint" or key.startswith("checkpoint.")


def _of_benchmark(key: str, benchmark: str | None) -> str:
    head, dot, rest = key.partition(".")
    if head != "benchmark":
        return key
    return "benchmarks" if benchmark is None else f"benchmarks.{section_of(benchmark)}{dot}{rest}"


def _is_benchmarks(key: str) -> bool:
    return key.partition(".")[0] == "benchmarks"


def _look_up(plain: Any, key: str) -> Any:
    """The value of a key; None where the benchmark has no such key."""
    for part in key.split("."):
        plain = plain.get(part) if _is_benchmarks(key) else plain[part]
    return plain


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(part) for key, part in value.items() if part is not None}
    return [_given(part) for part in value] if isinstance(value, list) else value
