"""The arithmetic of the backbone that a config names."""

from __future__ import annotations

from typing import Any

from hermesflow.config.experiment import Config
from hermesflow.core.errors import ConfigError
from hermesflow.models import backbone


def costs_of(config: Config) -> Any:
    """What the family of a config counts with, `models/FAMILY/costs`.

    Raises:
        ConfigError: the family has none, so its work cannot be planned.
    """
    family = config.language_model.family
    costs = backbone.part(family, "costs")
    if not hasattr(costs, "Batches"):
        raise ConfigError(f"language_model.family: `{family}` has no module `costs`, so nothing can be planned for it.")
    return costs
