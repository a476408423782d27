"""What each step is made from besides its input files: the config keys it reads and the modules it runs.

Snakemake keeps both as params of a rule (so a step runs again only when one of them changed) and dvc.yaml lists the
same keys and modules. Modules are found by following imports in the source, so the lists cannot go stale.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from hermesflow.config.benchmarks import BENCHMARKS
from hermesflow.config.benchmarks import PACKAGE as PLUG_INS
from hermesflow.config.experiment import BASE, Config, as_plain

PACKAGE = "hermesflow"
ROOT = Path(__file__).parents[1]
RECORDERS = frozenset({"hermesflow.tracking.runs"})
"""Modules that record what happened and never decide what is computed: no reason to run a step again."""
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "understand": ("hermesflow.evaluation.lmms.plugin", "hermesflow.evaluation.lmms.summary")
}
"""Modules that a stage runs in another interpreter, where no import leads: they decide its results too."""

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
    "draw": ("sampling.images", "benchmark.prompts"),
    "gather_drawn": ("benchmark.prompts",),
    "grade": ("benchmark.figures", "benchmark.config"),
    "understand": ("benchmark.figures", "benchmark.config"),
    "report": (
        "benchmark.figures",
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
    own = f"checkpoints.{checkpoint}"
    known = [key for key in READS[stage] if checkpoint != BASE or not _is_own(key)]
    keys = [own + key.removeprefix("checkpoint") if _is_own(key) else key for key in known]
    return sorted({part for key in keys for part in _of_benchmark(key, benchmark)})


def params_of(
    config: Config, stage: str, checkpoint: str | None = None, benchmark: str | None = None
) -> dict[str, Any]:
    """The values behind `reads`, as plain JSON types; a config without benchmarks has none of theirs.

    Where `benchmarks` is read as a whole, the value is the names of those that are measured.
    """
    plain, benchmarks = as_plain(config), config.benchmarks
    keys = [key for key in reads(stage, checkpoint, benchmark) if benchmarks or not _is_benchmarks(key)]
    values = {key: _look_up(plain, key) for key in keys}
    return values | ({"benchmarks": list(benchmarks.names)} if benchmarks and "benchmarks" in values else {})


def benchmarks_of(stage: str, benchmark: str | None, config: Config) -> tuple[str, ...]:
    """Benchmarks whose modules a stage runs: the one it is given, and for the report all that the config has."""
    if benchmark is not None:
        return (benchmark,)
    return config.benchmarks.names if config.benchmarks and stage == "report" else ()


@cache
def modules_of(stage: str, benchmarks: tuple[str, ...] = ()) -> tuple[Path, ...]:
    """Source files a stage runs: its module and all it imports from this package, directly or not, sorted.

    Those of benchmarks that it works on are found by name, where no import leads.
    """
    found: dict[str, Path] = {}
    queue = [f"{PACKAGE}.stages.{stage}", *ELSEWHERE.get(stage, ()), *(f"{PLUG_INS}.{name}" for name in benchmarks)]
    while queue:
        name = queue.pop()
        path = path_of(name)
        if name in found or name in RECORDERS or path is None:
            continue
        found[name] = path
        queue += [*imports_of(path), name.rpartition(".")[0]]
    return tuple(sorted(found.values()))


def code_of(stage: str, benchmarks: tuple[str, ...] = ()) -> str:
    """Digest of the code behind a stage, and the benchmarks it works on; comments, docstrings, layout do not count."""
    total = hashlib.sha256()
    for path in modules_of(stage, benchmarks):
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
        return tuple(one.config_keys)
    if part == "prompts":
        return tuple(f"{section}.{name}" for name in one.prompt_keys)
    return tuple(f"{section}.{name}" for name in one.decisive_keys) or (section,)


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
