"""Real understanding benchmarks through lmms-eval, which runs in an environment of its own (workflow/envs).

lmms-eval finds the model by the entry point `lmms_eval.models` of this package: `lmms_eval --model hermesflow`.
"""

from __future__ import annotations

from typing import Any

MODEL = "hermesflow"
"""Name of the model on lmms-eval's command line."""
PROGRESS = "lmms-eval: "
"""How each of the model's lines of progress begins."""
IMAGES = "images.parquet"
"""File that says which picture each record of a task shows."""
COUNTS = "counts.json"
"""File with what did not go through as it came: what it was -> task -> how often."""
LOCAL = "_local"
"""What the name of a task's local copy has behind that of the shipped one."""


def manifest() -> Any:
    """The model as lmms-eval's registry wants it described, a `ModelManifest`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL, simple_class_path="hermesflow.evaluation.lmms.plugin.HermesFlow")
