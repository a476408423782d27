"""The config keys that each stage reads, and their values: what a step is made from besides its input files and code.

Defaults count: the values are those of the config as it was read, not of the file.
"""

from __future__ import annotations

from typing import Any

from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.tree import training_of

_WORLD = ("data.source", "data.style", "data.shift")
_MODEL = ("data.image_size", "image_tokenizer", "language_model")
_OPTIONAL = ("data.style", "data.shift")
_STOPPING = ("data.seed", *_WORLD, "sampling.images")  # of a training that is stopped by a judge
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
    "judge": _WORLD,
    "clip": ("data.seed", "evaluation.clip_steps"),
    "base": (*_MODEL, "base_training", "weights.language_model"),
    "sample": ("sampling",),
    "gather_candidates": ("sampling",),
    "score": ("sampling.images.n", "scoring"),
    "gather_scores": ("sampling", "scoring"),
    "agreement": (*_WORLD, "scoring"),
    "prefer": (
        "preferences",
        *("checkpoint.parent", "checkpoint.candidates", "checkpoint.pairs", "checkpoint.rejected"),
    ),
    "reference": (
        *("preferences", "training.batch_size", "training.micro_batch_size"),
        *("training.mask_schedule", "checkpoint.parent"),
    ),
    "train": ("training", "checkpoint", *_STOPPING),
    "evaluate": (
        *("data.gap_pairs", *_WORLD, "evaluation", "scoring"),
        *("sampling.images", "sampling.captions.max_new_tokens"),
    ),
    "draw": ("sampling.images", "benchmark.prompts"),
    "gather_drawn": ("benchmark.prompts",),
    "grade": ("benchmark.figures", "benchmark.config"),
    "understand": ("benchmark.figures", "benchmark.config"),
    "report": (
        "benchmark.figures",
        *_WORLD,
        "name",
        "seeds",
        "checkpoints",
        "evaluation.bootstrap",
        "evaluation.confidence",
        "sampling",
    ),
}
"""Config keys each stage reads; `checkpoint` stands for the checkpoint's own entry in the tree. `benchmark.prompts`,
`benchmark.figures` and `benchmark.config` are the keys that a benchmark says decide its prompts, its figures, and its
figures outside its section; a stage that is given none reads which benchmarks there are. `runtime` is left out: it
changes how a step runs, not what it makes. Of a model on disk nothing is read from the config."""


def reads(stage: str, checkpoint: str | None = None, benchmark: str | None = None) -> list[str]:
    """Dotted keys of the config file that a stage reads, for one checkpoint where it works on one (base has no own).

    Likewise for one benchmark.
    """
    prefix = f"checkpoints.{checkpoint}"
    known = [key for key in READS[stage] if checkpoint != BASE or not _is_checkpoint_key(key)]
    keys = [prefix + key.removeprefix("checkpoint") if _is_checkpoint_key(key) else key for key in known]
    return sorted({part for key in keys for part in _of_benchmark(key, benchmark)})


def params_of(
    config: Config, stage: str, checkpoint: str | None = None, benchmark: str | None = None
) -> dict[str, Any]:
    """The values behind `reads`, as plain JSON types; a config without benchmarks has none of theirs.

    Within a section, keys that are None are left out, and so are `_OPTIONAL`: an optional key that a later version adds
    changes nothing. Where
    `benchmarks` is read as a whole, the value is the names of those that are measured.
    """
    plain, benchmarks = as_plain(config), config.benchmarks
    keys = [key for key in reads(stage, checkpoint, benchmark) if benchmarks or not _is_benchmarks(key)]
    if stage == "train" and not (checkpoint in config.checkpoints and training_of(config, checkpoint).stopping):
        keys = [key for key in keys if key not in _STOPPING]
    values = {key: _look_up(plain, key) for key in keys}
    values = {key: _without_none(value) for key, value in values.items() if key not in _OPTIONAL or value is not None}
    return values | ({"benchmarks": list(benchmarks.names)} if benchmarks and "benchmarks" in values else {})


def _is_checkpoint_key(key: str) -> bool:
    return key == "checkpoint" or key.startswith("checkpoint.")


def _of_benchmark(key: str, benchmark: str | None) -> tuple[str, ...]:
    """The keys that a key stands for where a stage works on a benchmark."""
    head, _, part = key.partition(".")
    if head != "benchmark":
        return (key,)
    if benchmark is None:
        return ("benchmarks",)
    one = BENCHMARKS[benchmark]
    section = f"benchmarks.{one.section_name}"
    if part == "config":
        return (*one.config_keys, *(("benchmarks.untried",) if getattr(one, "models", ()) else ()))
    if part == "prompts":
        return tuple(f"{section}.{name}" for name in one.prompt_keys)
    return tuple(f"{section}.{name}" for name in one.decisive_keys) or (section,)


def _is_benchmarks(key: str) -> bool:
    return key.partition(".")[0] == "benchmarks"


def _look_up(plain: Any, key: str) -> Any:
    """The value of a key; None where the benchmark, or the source of data, has no such key."""
    for part in key.split("."):
        plain = plain.get(part) if _is_benchmarks(key) or key in _OPTIONAL else plain[part]
    return plain


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value
