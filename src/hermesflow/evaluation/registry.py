"""Look-up of benchmarks by name, so that no stage imports one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermesflow.config.benchmarks import BENCHMARKS, Benchmarks
from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.benchmark import Benchmark, ImageBenchmark, LmmsBenchmark
from hermesflow.evaluation.lmms import LOCAL

if TYPE_CHECKING:
    from hermesflow.core.files import Layout
    from hermesflow.evaluation.prompts import Prompts

_NO_SECTION = "--benchmark {name}: the config has no section benchmarks.{name} with images."


def lmms_benchmarks() -> tuple[LmmsBenchmark, ...]:
    """Those that lmms-eval asks, in their order."""
    return tuple(one for one in BENCHMARKS.values() if isinstance(one, LmmsBenchmark))


def measured(benchmarks: Benchmarks | None) -> tuple[Benchmark, ...]:
    """Those that a config has."""
    return tuple(BENCHMARKS[name] for name in benchmarks.names) if benchmarks else ()


def image_benchmark(name: str) -> ImageBenchmark:
    """The benchmark of a name.

    Raises:
        ConfigError: there is none of that name, or no images are generated for it.
    """
    if not isinstance(one := BENCHMARKS.get(name), ImageBenchmark):
        raise ConfigError(_NO_SECTION.format(name=name))
    return one


def lmms_benchmark(name: str) -> LmmsBenchmark:
    """The benchmark of a name.

    Raises:
        ConfigError: there is none of that name, or lmms-eval does not ask it.
    """
    if not isinstance(one := BENCHMARKS.get(name), LmmsBenchmark):
        raise ConfigError(f"--benchmark {name}: is not in benchmarks.understanding.columns of the config.")
    return one


def benchmark_of(task: str) -> LmmsBenchmark | None:
    """The benchmark that a task of lmms-eval, shipped or a local copy, is of; None for a task of no column."""
    return next((one for one in lmms_benchmarks() if task.removesuffix(LOCAL) in one.tasks), None)


def read_prompts(benchmarks: Benchmarks | None, layout: Layout, benchmark: str) -> Prompts:
    """The prompts of a benchmark, from the file its section names or from the config's own pairs.

    Raises:
        ConfigError: the config has no such benchmark, or no images are generated for it.
        DataError: its file is missing or is not the benchmark's.
    """
    one = image_benchmark(benchmark)
    if (settings := one.settings(benchmarks)) is None:
        raise ConfigError(_NO_SECTION.format(name=benchmark))
    return one.read_prompts(settings, layout)
