"""Section `benchmarks` of a config file, put together from what the modules of `evaluation/benchmarks` declare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field

from hermesflow.config.sections import Positive, section
from hermesflow.core import registry

PACKAGE = "hermesflow.evaluation.benchmarks"
_T = TypeVar("_T", bound=type)


def _registered() -> dict[str, Any]:
    declared = [registry.load(PACKAGE, name, "BENCHMARK") for name in registry.names(PACKAGE)]
    return {one.name: one for one in sorted(declared, key=lambda one: (one.order, one.name))}


BENCHMARKS = _registered()
"""Every `evaluation.benchmark.Benchmark` by name, in their order."""
IMAGE_BENCHMARKS = tuple(name for name, one in BENCHMARKS.items() if hasattr(one, "section"))
"""Benchmarks whose images a checkpoint generates; the names of their sections."""
COLUMNS = tuple(name for name in BENCHMARKS if name not in IMAGE_BENCHMARKS)
"""Columns of Table 1 that lmms-eval makes, all by the section `understanding`."""
PAPER_COLUMNS = tuple(name for name in COLUMNS if BENCHMARKS[name].paper)
"""Those of them that the paper has."""
if TYPE_CHECKING:
    Column = str
else:
    Column = Literal[COLUMNS]


def with_keys(keys: Iterable[tuple[str, Any, Any, str]]) -> Callable[[_T], _T]:
    """Add keys to a class before it becomes a section: name, type, default and meaning of each."""

    def add(cls: _T) -> _T:
        for name, type_, default, meaning in keys:
            cls.__annotations__[name] = Annotated[type_, Field(description=meaning)]
            setattr(cls, name, default)
        return cls

    return add


@section
@with_keys(
    (option.name, option.type, option.default, option.meaning)
    for name in COLUMNS
    for option in BENCHMARKS[name].options
)
class Understanding:
    """Columns of Table 1 through lmms-eval, which has an environment of its own (`make lmms`, docs/lmms-eval.md)."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    columns: Annotated[tuple[Column, ...], Field(min_length=1)] = PAPER_COLUMNS
    """Columns to fill; each is a job per checkpoint."""
    batch_size: Positive
    """Pictures answered about together."""
    python: str = ".venv-lmms/bin/python"
    """Interpreter of the environment with lmms-eval."""
    cache: str | None = None
    """Folder of the hub's client (HF_HOME) for the data sets; None leaves it where the environment says."""
    tasks: str | None = None
    """Folder of local tasks that take the place of the shipped ones, named after them with `_local` behind; for places
    without a network."""


@section
@with_keys(
    (name, one.section | None, None, f"{one.meaning} See its own table below.")
    for name, one in ((key, BENCHMARKS[key]) for key in IMAGE_BENCHMARKS)
)
class Benchmarks:
    """Real benchmarks of every checkpoint, beside its own evaluation; each needs its section."""

    if TYPE_CHECKING:

        def __init__(self, **sections: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    understanding: Understanding | None = None
    """Table 1. See its own table below."""
    untried: Annotated[str, Field(pattern=r"\S")] | None = None
    """Why the models that grade are not shown pictures whose verdict is known before they grade; the reason stands
    under the tables. None shows them, and stops where a model does not see what is there."""

    @property
    def image_benchmarks(self) -> tuple[str, ...]:
        """Benchmarks that images are generated for, in the order of IMAGE_BENCHMARKS."""
        return tuple(name for name in IMAGE_BENCHMARKS if getattr(self, name) is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that lmms-eval makes, in the order of COLUMNS."""
        wanted = self.understanding.columns if self.understanding else ()
        return tuple(name for name in COLUMNS if name in wanted)

    @property
    def names(self) -> tuple[str, ...]:
        """All benchmarks that are measured."""
        return (*self.image_benchmarks, *self.columns)


def reported(benchmarks: Benchmarks | None) -> tuple[Any, ...]:
    """Those that the report's tables have columns and notes of: the paper's, and what a config has besides."""
    names = benchmarks.names if benchmarks else ()
    return tuple(one for one in BENCHMARKS.values() if one.paper or one.name in names)
