"""What a benchmark is: the seam between `evaluation/benchmarks/NAME.py` and all that runs, plans and reports it.

Each of these modules declares one `BENCHMARK`: an `ImageBenchmark`, whose images a checkpoint generates and the module
grades, or an `LmmsBenchmark`, whose questions lmms-eval asks. The config, the rules, the report, the plan and `fetch`
read the object; the file's name is the only registration (docs/benchmarks.md, "Adding a benchmark").

The modules are imported whenever a config is read: torch, transformers, numpy and pandas belong inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hermesflow.core.errors import DataError

if TYPE_CHECKING:
    from hermesflow.config.experiment import Config
    from hermesflow.config.sections import Source
    from hermesflow.core.files import Layout
    from hermesflow.evaluation.grading import Graded, Job
    from hermesflow.evaluation.lmms.run import Row, Run, Sample
    from hermesflow.evaluation.prompts import Prompts

UNDERSTANDING, GENERATION, FIDELITY, GAP, ABLATION = (
    *("table1_understanding", "table2_generation", "table3_fidelity"),
    *("table4_gap", "table5_ablation"),
)
"""The paper's tables, as their files are named."""
LMMS_SECTION = "understanding"
"""Section of the config that all benchmarks of lmms-eval share."""


@dataclass(frozen=True)
class Column:
    """One measured column of a table."""

    key: str
    """Name in our CSV."""
    title: str
    metric: str | None
    """Name in the statistics; None: nothing here measures it."""
    scale: float = 1.0
    """Brings the statistic to the paper's unit."""
    digits: int = 1
    section: str = ""
    """Section of the config that has it measured; empty where every config does, or none."""
    benchmark: str = ""
    """Real benchmark it comes from; empty where it comes from the checkpoint's evaluation."""
    quoted: str = ""
    """Column of `config/paper_tables` whose figures are quoted below the measured ones; empty: the paper has none."""


@dataclass(frozen=True)
class Note:
    """A sentence under one of the paper's tables, where images are real."""

    table: str
    text: str
    metric: str | None = None
    """Shown only where this figure was measured."""


@dataclass(frozen=True, kw_only=True)
class ExtraTable:
    """A table of a benchmark's, beside the paper's: a row per checkpoint."""

    name: str
    """File name without suffix."""
    title: str
    columns: Callable[[Collection[str]], Sequence[Column]]
    """Its columns, given the names of all measured figures. The first is the main one: the table is there where that
    was measured, and shows its change against base. Columns that were not measured are left out."""
    change: str
    """Title of that change."""
    note: str
    """What its figures are, under the table."""
    caption: str
    """For `snakemake --report`, in reStructuredText."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What both kinds of benchmarks declare."""

    name: str
    """Of the module, of the folder under results/, and for `--benchmark`."""
    order: int = 1000
    """Place in tables and lists; of equal ones the name decides."""
    paper: bool = False
    """Whether the paper has it. Its columns are there, empty and with a note, where it was not measured; and it is
    refused beside the micro world's evaluation, whose figures have the same names."""
    columns: Mapping[str, Sequence[Column]] = field(default_factory=dict)
    """Columns in the paper's tables, by the table's name; `section` and `benchmark` of a column are filled in."""
    notes: Sequence[Note] = ()
    table: ExtraTable | None = None
    composed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Figures that are weighted sums of others: metric to the weights of its parts, by metric."""
    config_keys: Sequence[str] = ()
    """Dotted keys outside its section that decide its figures."""

    @property
    def section_name(self) -> str:
        """Name of its section in `benchmarks`."""
        return self.name

    @property
    def decisive_keys(self) -> tuple[str, ...]:
        """Dotted keys of its section that decide its figures; none: all of the section."""
        return ()

    def settings(self, benchmarks: Any) -> Any:
        """Its section; None where a config has none."""
        return getattr(benchmarks, self.section_name, None)

    def columns_of(self, table: str) -> tuple[Column, ...]:
        """Its columns in one of the paper's tables."""
        section = f"benchmarks.{self.section_name}"
        return tuple(replace(one, section=section, benchmark=self.name) for one in self.columns.get(table, ()))


@dataclass(frozen=True, kw_only=True)
class Export:
    """How images are laid out for a benchmark's original scripts."""

    folder: str = ""
    """Folder of a prompt's images inside the one that is named after the prompt."""
    write_index: Callable[[Any, Prompts, Sequence[Sequence[Path]], Path], None]
    """Writes what the scripts read beside the images, given the section, the prompts, the image files of each prompt
    and the folder of all."""


class Plan(Protocol):
    """What the cost of grading the images of one checkpoint and seed is told to (`budget.graders`).

    Released models are known by the last part of their repository or folder; others are named as unknown.
    """

    config: Config
    settings: Any
    """The benchmark's section."""
    images: int
    """All images that are graded."""
    questions: int
    """Questions that a pair of the config has."""
    asking: int
    """Tokens of a question."""

    def look(self, model: str | Source, times: float) -> None:
        """A model sees so many images."""

    def read(self, model: str | Source, times: float) -> None:
        """A CLIP reads so many texts."""

    def ask(
        self,
        model: str | Source,
        times: float,
        *,
        written: int,
        prompt: int | None = None,
        dtype: str | None = None,
    ) -> None:
        """A model answers so many questions about one image each, with so many tokens.

        `prompt` is the length of a question, `asking` by default; `dtype` is the number type of a chat model's
        weights, half precision by default.
        """

    def compute(self, times: float, *, flops: float, read: float) -> None:
        """Arithmetic without a model: FLOPs and bytes read of each of so many passes."""


def _no_cost(plan: Plan) -> None:
    """Nothing that counts beside the checkpoint's own work."""


@dataclass(frozen=True, kw_only=True)
class ImageBenchmark(Benchmark):
    """A benchmark whose images a checkpoint generates in stage `draw`, and which stage `grade` grades."""

    section: type
    """Its section of the config, `benchmarks.NAME`."""
    meaning: str
    """Of that key, in config/README.md."""
    read_prompts: Callable[[Any, Layout], Prompts]
    """Reads its prompts, given its section and the results' layout."""
    grade: Callable[[Job], Graded]
    """Grades all images of one checkpoint."""
    prompt_files: Mapping[str, str] = field(default_factory=dict)
    """Keys of the section that name the files its prompts are read from, each with where to get the file."""
    prompt_options: Sequence[str] = ()
    """Other keys of the section that decide its prompts."""
    grading_files: Mapping[str, str] = field(default_factory=dict)
    """Likewise files that grading alone reads."""
    split: str | None = None
    """Split of the config's own pairs whose captions are its prompts; grading reads its images."""
    models: Sequence[str] = ()
    """Keys of the section that name released models: fetched, pinned, and named under the tables."""
    keys: Sequence[str] = ()
    """Dotted keys of the section that decide its figures; none: all of the section."""
    check: Callable[[Any], None] | None = None
    """Looks, when a config is read, for what the section's types cannot tell.

    Raises:
        ConfigError: the section is wrong.
    """
    sharded: bool = False
    """Whether its images are generated in `runtime.shards` jobs, as tens of thousands should be."""
    memory: int = 8000
    """Megabytes that a grading job holds, models included."""
    one_at_a_time: bool = False
    """Whether only one of its grading jobs may run at once."""
    export: Export | None = None
    """How `hermesflow export-images` writes its images; None: its original grades no files."""
    prompts: int | None = None
    """Prompts of the published benchmark, for the plan; None: the pairs of its split."""
    questions: int | None = None
    """A guess of the questions about an image, which the plan names as one."""
    cost: Callable[[Plan], None] = _no_cost
    """Tells a plan what grading takes."""
    half_precision: bool = False
    """Whether most of that is in half precision."""
    answers: bool = False
    """Whether grading asks the checkpoint the questions of the split, too."""

    @property
    def decisive_keys(self) -> tuple[str, ...]:
        """Dotted keys of its section that decide its figures; none: all of the section."""
        return tuple(self.keys)

    @property
    def prompt_keys(self) -> tuple[str, ...]:
        """Keys of its section that decide which images are generated."""
        names = {one.name for one in fields(self.section)}
        return (*self.prompt_files, *self.prompt_options, *(("images",) if "images" in names else ()))

    def require_file(self, settings: Any, key: str) -> Path:
        """A file that its section names.

        Raises:
            DataError: it is not there; says where to get it.
        """
        path = Path(getattr(settings, key))
        if not path.is_file():
            where = {**self.prompt_files, **self.grading_files}[key]
            raise DataError(f"{path}: no such file (benchmarks.{self.name}.{key}). {where}, or correct the key.")
        return path

    def images(self, settings: Any) -> int:
        """Images of each prompt."""
        return int(getattr(settings, "images", 1))

    def model_sources(self, settings: Any) -> dict[str, str | Source]:
        """Its released models by key."""
        return {key: look_up(settings, key) for key in self.models}


@dataclass(frozen=True, kw_only=True)
class Option:
    """A key that one benchmark of lmms-eval adds to the section they share."""

    name: str
    type: Any
    default: Any
    meaning: str
    """In config/README.md."""


@dataclass(frozen=True)
class Task:
    """One of lmms-eval's tasks, as published."""

    pictures: int
    questions: int
    tokens: int
    """At most so many new tokens an answer: `max_new_tokens` of the task in lmms-eval 0.7.3."""
    option: str | None = None
    """Key of the section that has it run; None: always."""
    figures: bool = True
    """Whether figures are made of it; if not, it leaves a file for a server that grades it."""
    read_answer: Callable[[str], str] | None = None
    """What lmms-eval is given of an answer; None: as the benchmark reads it."""

    @property
    def each(self) -> int:
        """Questions about a picture, rounded up."""
        return -(-self.questions // self.pictures)


def task_target(sample: Sample) -> Any:
    """What a sample's task calls its target."""
    return sample["target"]


@dataclass(frozen=True, kw_only=True)
class LmmsBenchmark(Benchmark):
    """A benchmark whose questions lmms-eval asks, in stage `understand`; a column of section `understanding`."""

    tasks: Mapping[str, Task]
    """lmms-eval's tasks by the names it ships them under."""
    rows: Callable[[Run, str, Sequence[Sample]], list[Row]]
    """Numerators and denominators of the samples of a task, picture by picture."""
    printed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Figures that lmms-eval prints too: metric to the task and its name there."""
    target: Callable[[Sample], Any] = task_target
    """What a sample's task holds for right."""
    options: Sequence[Option] = ()
    """Keys that it adds to the section."""
    environment: Callable[[Any], Mapping[str, str]] = lambda _: {}
    """Variables of lmms-eval's process, given the section."""
    read_answer: Callable[[str], str] = str
    """What lmms-eval's scorer is given of an answer."""
    unread: Callable[[str, Mapping[str, Any]], bool] | None = None
    """Whether an answer, as the model wrote it to a record of a task, says nothing that the scorer can read, which is
    counted under the table; None: it reads any."""
    java: str | None = None
    """Its scorer, in words, if that runs Java."""

    @property
    def section_name(self) -> str:
        """Name of the section in `benchmarks` that it shares."""
        return LMMS_SECTION

    @property
    def decisive_keys(self) -> tuple[str, ...]:
        """Keys of the section that decide its figures."""
        return ("tasks", *(one.name for one in self.options))

    def tasks_wanted(self, settings: Any) -> list[str]:
        """Tasks that a config asks for, by their shipped names."""
        return [name for name, task in self.tasks.items() if not task.option or getattr(settings, task.option)]


def look_up(settings: Any, key: str) -> Any:
    """The value of a dotted key of a section."""
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings
