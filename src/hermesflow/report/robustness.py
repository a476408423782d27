"""What settings of one iteration of Pair-DPO change, one at a time: a table, and a verdict on each by one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hermesflow.config.experiment import BASE, Config, as_plain
from hermesflow.config.reads import params_of
from hermesflow.config.tree import preferences_of, training_of
from hermesflow.core.errors import ArtifactError, ConfigError
from hermesflow.core.files import Layout, git_revision, read_json, sha256, write_json, write_table
from hermesflow.evaluation.benchmark import Column
from hermesflow.evaluation.bootstrap import summarise
from hermesflow.report.answer import PROTOCOL_WORDS, verdict_above
from hermesflow.report.columns import GAP_SIDES
from hermesflow.report.formatting import EMPTY, Table, change, to_markdown, write_text
from hermesflow.report.lookup import Figures
from hermesflow.report.roles import pair_chain

NO_SETTINGS = ("name", "seeds", "checkpoints", "evaluation", "benchmarks", "runtime")
"""Sections that decide nothing of a checkpoint, or are read through its entry."""
STRICT = Column("strict", "Strict acceptance", "geneval/overall", digits=3)
DENSE = Column("dense", "Dense prompts", "dpg", digits=3)
PAGE, NUMBERS = "README.md", "robustness.csv"


@dataclass(frozen=True)
class Variant:
    """A checkpoint that grows from base, and what sets it apart from the default."""

    config: Config
    checkpoint: str
    changed: Mapping[str, Any]
    """Values by dotted key of the config; none of the default."""

    @property
    def setting(self) -> str:
        """The keys that it changes."""
        return ", ".join(self.changed)

    @property
    def value(self) -> str:
        """Their values."""
        return ", ".join(map(_text, self.changed.values()))


def settings_of(config: Config, checkpoint: str) -> dict[str, Any]:
    """All values that a checkpoint is made by, its own overrides among them, by dotted key."""
    entry = config.checkpoints[checkpoint]
    overrides = {"training": training_of(config, checkpoint), "preferences": preferences_of(config, checkpoint)}
    sections = {key: value for key, value in as_plain(config).items() if key not in NO_SETTINGS}
    sections |= {key: as_plain(section) for key, section in overrides.items()}
    sections |= {"objective": entry.objective, "candidates": entry.candidates}
    return dict(pd.json_normalize(sections).to_dict("records")[0])  # type: ignore[arg-type]


def variants_of(default: Config, others: Sequence[Config]) -> list[Variant]:
    """The default, then every other checkpoint from base by what it changes, settings in the config's order.

    Args:
        default: its first iteration of Pair-DPO is the default; its other checkpoints from base are variants too.
        others: configs with further variants.

    Raises:
        ConfigError: two variants change the same.
    """
    usual = settings_of(default, pair_chain(default)[0])
    variants = [Variant(default, pair_chain(default)[0], {})]
    for config in (default, *others):
        for name in (name for name, entry in config.checkpoints.items() if entry.parent == BASE):
            settings = settings_of(config, name)
            changed = {key: settings.get(key) for key in {**usual, **settings} if settings.get(key) != usual.get(key)}
            same = next((one for one in variants if one.changed == changed), None)
            if same is None:
                variants.append(Variant(config, name, changed))
            elif changed:
                raise ConfigError(
                    f"configs `{same.config.name}` and `{config.name}`: `{same.checkpoint}` and `{name}` change the "
                    f"same ({same.setting}: {same.value}). Remove one of them."
                )
    places = {key: place for place, key in enumerate(usual)}

    def place(one: Variant) -> tuple[Any, ...]:
        numbers = [value if isinstance(value, int | float) else 0 for value in one.changed.values()]
        return [places.get(key, len(places)) for key in one.changed], one.setting, numbers

    return sorted(variants, key=place)


def write_page(default: Config, others: Sequence[Config], results: Path, target: Path) -> None:
    """Write `README.md`, `robustness.csv` and `manifest.json`.

    Args:
        default: the config whose base and first iteration all variants are compared with, over its seeds.
        others: configs of variants.
        results: folder of all results.
        target: folder of the page.

    Raises:
        ArtifactError: an evaluation is missing, or was measured by other settings than the default's.
        ConfigError: two variants change the same.
    """
    usual, *variants = variants_of(default, others)
    where = {BASE: replace(usual, checkpoint=BASE), usual.checkpoint: usual}
    where |= {f"{one.setting} {one.value}": one for one in variants}
    folders = {
        label: {
            s: Layout(results / one.config.name).checkpoint(s, one.checkpoint) / "evaluation" for s in default.seeds
        }
        for label, one in where.items()
    }
    for folder in (folder for of_seeds in folders.values() for folder in of_seeds.values()):
        if read_json(folder / "manifest.json")["config"] != params_of(default, "evaluate"):
            raise ArtifactError(f"{folder}: was measured by other settings than those of `{default.name}`. Delete it.")
    pairs = [(label, usual.checkpoint) for label, one in where.items() if one.changed]
    confidence = default.evaluation.confidence
    summary = summarise(folders, resamples=default.evaluation.bootstrap, confidence=confidence, pairs=pairs)
    table, verdicts = compare(where, Figures(summary), default=usual.checkpoint)
    rule = (
        "One iteration of Pair-DPO from base, one setting changed at a time. A setting matters if, with a value that "
        f"was tried, the {100 * confidence:g} % interval of the difference from the default (`{usual.checkpoint}` of "
        f"the config `{default.name}`) excludes 0 in generation or in strict acceptance. `make robustness` made this."
    )
    count = 2 * len(variants)
    chance = (
        f"{count} intervals decide: if nothing mattered, some {count * (1 - confidence):.1f} of them would exclude 0 "
        "by chance. Where no difference is seen, the interval says how large one may be."
    )
    parts = [
        "# What matters in one iteration of Pair-DPO",
        rule,
        "\n".join(verdicts),
        chance,
        to_markdown(table).strip(),
    ]
    parts += [f"All numbers: [{NUMBERS}]({NUMBERS}). What they are of: [manifest.json](manifest.json)."]
    write_table(target / NUMBERS, table.values)
    write_text(target / PAGE, "\n\n".join(parts) + "\n")
    configs = {config.name: as_plain(config) for config in (default, *others)}
    files = {name: sha256(target / name) for name in (PAGE, NUMBERS)}
    manifest = {"configs": configs, "seeds": sorted(default.seeds), "git_revision": git_revision(), "files": files}
    write_json(target / "manifest.json", manifest)


def compare(where: Mapping[str, Variant], figures: Figures, *, default: str) -> tuple[Table, list[str]]:
    """The table of all variants, and one verdict for each setting.

    Args:
        where: variants by their names in the figures, base and default among them.
        figures: changes against base, and differences from the default.
        default: its name.
    """
    sides = {side.key: replace(side, metric=f"gap/{figures.protocol}/{side.key}") for side in GAP_SIDES}
    decisive = (sides["generation"], STRICT)
    columns = (sides["generation"], sides["gap"], sides["understanding"], STRICT, DENSE)
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, str]] = []
    apart: dict[str, list[str]] = {one.setting: [] for one in where.values() if one.changed}
    for label, one in ((label, one) for label, one in where.items() if label != BASE):
        row: dict[str, Any] = {"setting": one.setting or "default", "value": one.value}
        row |= {"config": one.config.name, "checkpoint": one.checkpoint, "seeds": figures.seeds(label)}
        cell = {"Setting": f"`{one.setting}`" if one.changed else "default", "Value": one.value or EMPTY}
        for against, words in ((BASE, "change"), (default, "from default")):
            for column in columns:
                difference = figures.get(label, column.metric, against=against)
                low, high = difference["delta_low"], difference["delta_high"]
                ends = {"": difference["delta"], "_low": low, "_high": high}
                name = f"{column.key}_{words}".replace(" ", "_")
                row |= {f"{name}{end}": round(value, 6) + 0.0 for end, value in ends.items()}
                text = change(difference, column.digits)
                if against == BASE or column in decisive:
                    cell[f"{column.title}, {words}"] = text
                if against == default and column in decisive and verdict_above(low, high, 0.0) != "open":
                    apart[one.setting].append(f"with {one.value} {column.title.lower()} {text}")
        rows.append(row)
        cells.append(cell)
    usual = settings_of(where[default].config, where[default].checkpoint)
    verdicts = []
    for setting, differences in apart.items():
        was = ", ".join(_text(usual.get(key)) for key in setting.split(", "))
        tried = "; ".join(one.value for one in where.values() if one.setting == setting)
        verdict = f"**matters**: {'; '.join(differences)}" if differences else "no difference seen"
        verdicts.append(f"- `{setting}` (default {was}, tried {tried}): {verdict}.")
    notes = (
        "`change` is against base, `from default` is the difference from the first row; brackets are paired bootstrap "
        f"intervals, which resample seeds and prompts. Gap and its sides: {PROTOCOL_WORDS[figures.protocol]}.",
        "Whatever candidates were drawn or scored by, all checkpoints are measured by the default's settings.",
    )
    title = f"Settings of one iteration (run seeds: {figures.seeds(default)})"
    return Table("robustness", title, pd.DataFrame(rows), pd.DataFrame(cells), notes), verdicts


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return "none" if value is None else str(value)
