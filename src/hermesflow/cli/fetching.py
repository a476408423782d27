"""Everything a config wants from the hub: fetched ahead of the run, or pinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hermesflow.config.data import RealData
from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.sections import Source
from hermesflow.core import hub
from hermesflow.evaluation.registry import image_benchmark


def sources_of(config: Config) -> dict[str, Source]:
    """Every source a config names, by its key."""
    choices = config.scoring.choice_encoder
    questions = getattr(config.data, "questions", None)
    named: dict[str, object] = {
        "data.questions.generator": questions.generator if questions else None,
        "data.questions.checker": questions.checker if questions else None,
        "weights.language_model": config.weights.language_model,
        "weights.image_tokenizer": config.weights.image_tokenizer,
        "language_model.text_tokenizer": config.language_model.text_tokenizer,
        "scoring.encoder.source": config.scoring.encoder.source,
        "scoring.choice_encoder.source": choices.source if choices else None,
    }
    for name in config.benchmarks.drawn if config.benchmarks else ():
        models = image_benchmark(name).model_sources(getattr(config.benchmarks, name))
        named |= {f"benchmarks.{name}.{key}": source for key, source in models.items()}
    return {key: source for key, source in named.items() if isinstance(source, Source)}


def fetch_all(config: Config) -> dict[str, Path]:
    """Fetch and check every source; its folder by key.

    Raises:
        ConfigError: a revision or checksum is not pinned.
        FetchError: a file cannot be had, or is not the pinned one.
    """
    return {key: hub.fetch(source) for key, source in sources_of(config).items()}


def pinned_yaml(config: Config) -> str:
    """What a config reads from the hub with revisions and checksums filled in, as lines of its YAML file.

    Raises:
        FetchError: the hub cannot be asked.
    """
    pinned: dict[str, Any] = {}
    data = config.data
    if isinstance(data, RealData) and hasattr(data, "revision") and not Path(data.path).is_dir():
        pinned["data.revision"] = hub.newest(hub.Repository(data.path, "dataset", data.revision))
    for key, source in sources_of(config).items():
        pinned[key] = {name: value for name, value in as_plain(hub.pin(source)).items() if value is not None}
    plain: dict[str, Any] = {}
    for key, value in pinned.items():
        *path, last = key.split(".")
        inner = plain
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return yaml.safe_dump(plain, sort_keys=False, width=10_000) if plain else ""
