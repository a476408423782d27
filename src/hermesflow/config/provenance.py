"""What each step is made from besides its input files: the config keys it reads and the modules it runs.

Snakemake keeps both as params of a rule (so a step runs again only when one of them changed) and dvc.yaml lists the
same keys and modules. Modules are found by following imports in the source, so the lists cannot go stale.
"""

from __future__ import annotations

import ast
import hashlib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from hermesflow.config.benchmarks import section_of
from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.judges import HOW, Endpoint, LocalVlm

PACKAGE = "hermesflow"
ROOT = Path(__file__).parents[1]
RECORDERS = frozenset({"hermesflow.tracking.runs"})
"""Modules that record what happened and never decide what is computed: no reason to run a step again."""
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "understand": ("hermesflow.evaluation.lmms.plugin", "hermesflow.evaluation.lmms.summary")
}
"""Modules that a stage runs in another interpreter, where no import leads: they decide its results too."""

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
    """The values behind `reads`, as plain JSON types; a config without benchmarks has none of theirs."""
    plain = as_plain(config)
    keys = [key for key in reads(stage, checkpoint, benchmark) if config.benchmarks or not _is_benchmarks(key)]
    return {key: _look_up(plain, key) for key in keys}


@cache
def modules_of(stage: str) -> tuple[Path, ...]:
    """Source files a stage runs: its module and all it imports from this package, directly or not, sorted."""
    found: dict[str, Path] = {}
    queue = [f"{PACKAGE}.stages.{stage}", *ELSEWHERE.get(stage, ())]
    while queue:
        name = queue.pop()
        path = path_of(name)
        if name in found or name in RECORDERS or path is None:
            continue
        found[name] = path
        queue += [*imports_of(path), name.rpartition(".")[0]]
    return tuple(sorted(found.values()))


def code_of(stage: str) -> str:
    """Digest of the code behind a stage; comments, docstrings and layout do not count."""
    total = hashlib.sha256()
    for path in modules_of(stage):
        total.update(path.relative_to(ROOT).as_posix().encode() + _code(path).encode())
    return total.hexdigest()[:16]


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Names of this package's modules that a source file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return tuple(sorted(n for n in names if n.split(".")[0] == PACKAGE and path_of(n) is not None))


def path_of(module: str) -> Path | None:
    """File of a module of this package; None if there is none of that name."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    stem = ROOT.joinpath(*parts[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


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


@cache
def _code(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [n for n in body if not _is_docstring(n)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
