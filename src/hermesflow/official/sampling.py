"""Defects of the released code in sampling."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hermesflow.config.sections import Defect, Sampling


def sampling_of(settings: Sampling, defects: Collection[Defect]) -> Sampling:
    """`cumulative_temperature`: the noise of image sampling shrinks by a product of all ratios so far."""
    if "cumulative_temperature" not in defects:
        return settings
    return replace(settings, images=replace(settings.images, temperature_schedule="official"))
