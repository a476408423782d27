"""Digests of the code behind each stage, and of each step: its code and the values of the config keys it reads.

Snakemake keeps code and values as params of a rule, DVC compares the digests of steps: a step runs again only where one
of them or an input file changed. Modules are reached by following imports, so the lists cannot go stale.
"""

from __future__ import annotations

from hermesflow.config.benchmarks import PACKAGE as PLUG_INS
from hermesflow.config.benchmarks import reported
from hermesflow.config.experiment import BASE, Config
from hermesflow.config.reads import READS, params_of
from hermesflow.config.tree import training_of
from hermesflow.core.provenance import Modules, digest_of_code, modules_of

COMPUTES_NOTHING = (
    "hermesflow.cli",
    "hermesflow.config",
    "hermesflow.core.errors",
    "hermesflow.core.progress",
    "hermesflow.tracking",
)
"""Declarations, messages, records: no reason to run a step again. What a config says is in the values of its keys."""
COMPUTES = ("hermesflow.config.tree",)
"""Modules among them that decide results all the same."""
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "understand": ("hermesflow.evaluation.lmms.plugin", "hermesflow.evaluation.lmms.summary")
}
"""Modules that a stage runs in another interpreter, where no import leads."""
PARTS = {
    "model": ("new_model", "meta_model", "load_model", "model_without_weights"),
    "codec": ("meta_codec", "load_codec"),
    "codec_training": ("train_codec",),
}
"""Modules of a backbone by the functions of `models.backbone` that import them."""
SOURCES = "hermesflow.data.sources"
OPENS_SOURCE = f"{SOURCES}.real_pairs.write_real_pairs"
"""Data sources, and the function that imports the module of the one in the config; the small worlds have none there."""
WORLD_PARTS = {
    "hermesflow.data.worlds.world.world_of": "world",
    "hermesflow.data.worlds.language.lexicon_of": "captions",
}
"""Functions that import a module of the world in the config, and that module."""
STOPPING = "hermesflow.evaluation.worlds.stopping"
"""What a training that is stopped early measures, and no other imports."""
ONCE = ("data", "tokenizer", "encode", "judge", "clip", "base", "agreement", "report")
"""Stages that work on no checkpoint of the tree; all others do."""
UNGRADED = ("draw", "gather_drawn", "report")
"""Stages that run no grading of the benchmarks they work on: what that imports is no reason to run them again."""
OF_BENCHMARKS = ("draw", "gather_drawn", "grade", "understand")
"""Stages that work on one benchmark; `understand` on those through lmms-eval, the others on those of images."""


def roots_of(
    stage: str, config: Config, benchmark: str | None = None, checkpoint: str | None = None
) -> tuple[str, ...]:
    """Modules a stage starts from: its own and those of benchmarks, which are imported by name.

    Args:
        stage: name of a stage.
        config: the experiment.
        benchmark: the benchmark a step works on; the report is about the paper's and all others that the config has.
        checkpoint: the checkpoint that it works on; whether its training is stopped early.
    """
    names = [benchmark] if benchmark else []
    if stage == "report":
        names = [one.name for one in reported(config.benchmarks)]
    benchmarks = (f"{PLUG_INS}.{name}" for name in names)
    stopped = stage == "train" and checkpoint is not None and training_of(config, checkpoint).stopping
    return (f"hermesflow.stages.{stage}", *ELSEWHERE.get(stage, ()), *benchmarks, *((STOPPING,) if stopped else ()))


def modules_behind(stage: str, config: Config, benchmark: str | None = None, checkpoint: str | None = None) -> Modules:
    """Modules that decide the results of a stage, of one benchmark or checkpoint where it works on one."""
    family = config.language_model.family
    chosen = tuple(
        (f"hermesflow.models.backbone.{function}", module)
        for part, functions in PARTS.items()
        for module in ((f"{family}.{part}", family) if "." in family else (f"hermesflow.models.{family}.{part}",))
        for function in functions
    )
    source = config.data.source
    chosen = (*chosen, (OPENS_SOURCE, f"{SOURCES}.{source}"))
    chosen = (*chosen, *((function, f"hermesflow.data.{source}.{part}") for function, part in WORLD_PARTS.items()))
    roots = roots_of(stage, config, benchmark, checkpoint)
    declared = tuple(root for root in roots if root.startswith(PLUG_INS)) if stage in UNGRADED else ()
    return modules_of(roots, COMPUTES_NOTHING, COMPUTES, chosen, declared)


def code_of(stage: str, config: Config, benchmark: str | None = None, checkpoint: str | None = None) -> str:
    """Digest of the code behind a stage, of one benchmark or checkpoint where it works on one; see `modules_behind`."""
    return digest_of_code(modules_behind(stage, config, benchmark, checkpoint))


def code_digests(config: Config) -> dict[str, str]:
    """Digest of the code of every stage; those that work on a benchmark stand once more for each, as `grade-coco`."""
    digests = {stage: code_of(stage, config) for stage in READS}
    for stage in READS:
        digests |= {f"{stage}-{name}": code_of(stage, config, name) for name in benchmarks_of(stage, config)}
    return digests


def step_digests(config: Config) -> dict[str, str]:
    """Digest of code and values of every step, by `step_name`; seeds share them."""
    from hermesflow.core.files import digest_of  # pandas

    digests = {}
    for stage in READS:
        for checkpoint in _checkpoints_of(stage, config):
            for benchmark in benchmarks_of(stage, config) if stage in OF_BENCHMARKS else [None]:
                values = params_of(config, stage, checkpoint, benchmark)
                made_from = [code_of(stage, config, benchmark, checkpoint), values]
                digests[step_name(stage, checkpoint, benchmark)] = digest_of(made_from)
    return digests


def step_name(stage: str, checkpoint: str | None = None, benchmark: str | None = None) -> str:
    """`train-pair-1`, `grade-pair-1-coco`, `report`."""
    return "-".join(part for part in (stage, checkpoint, benchmark) if part)


def benchmarks_of(stage: str, config: Config) -> list[str]:
    """Benchmarks of the config that a stage works on, one each time."""
    if config.benchmarks is None or stage not in OF_BENCHMARKS:
        return []
    return list(config.benchmarks.columns if stage == "understand" else config.benchmarks.image_benchmarks)


def _checkpoints_of(stage: str, config: Config) -> list[str | None]:
    if stage in ONCE:
        return [None]
    trained = stage in ("prefer", "train")
    return [*([] if trained else [BASE]), *config.checkpoints]
