"""Everything a config wants from the hub: fetched ahead of the run, or pinned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from hermesflow.config.data import RealData
from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.sections import Source
from hermesflow.core import hub


def sources_of(section: Any, prefix: str = "") -> dict[str, Source]:
    """Every source that a config, or a section of it, names, by its key."""
    sources: dict[str, Source] = {}
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if isinstance(value, Source):
            sources[key] = value
        elif dataclasses.is_dataclass(value):
            sources |= sources_of(value, f"{key}.")
    return sources


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
