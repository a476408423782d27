"""Names of the figures, and which are sums of others."""

from __future__ import annotations

from hermesflow.data.worlds.language import GENEVAL_KINDS, OWN

POPE_SPLITS = ("random", "popular", "adversarial")
MME_TASKS = ("existence", "count", "position", "color")
MME_FULL = {
    "perception": (
        *MME_TASKS, "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}  # fmt: skip
"""Categories of the real MME; those of the micro world are MME_TASKS."""
PROTOCOLS = ("paper", "same-judge", "self")


def _compositions() -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for figure in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
        table[f"pope/{figure}"] = {f"pope/{split}/{figure}": 1 / len(POPE_SPLITS) for split in POPE_SPLITS}
    table["mme/total"] = {f"mme/{task}": 1.0 for task in MME_TASKS}
    for skill, categories in MME_FULL.items():
        halves = ("accuracy", "accuracy_plus")
        table[f"mme/{skill}"] = {f"mme/{category}/{half}": 1.0 for category in categories for half in halves}
        for half in halves:
            table[f"mme/{skill}/{half}"] = {f"mme/{c}/{half}": 1 / len(categories) for c in categories}
    for part in ("", OWN):
        table[f"geneval/{part}overall"] = {f"geneval/{part}{kind}": 1 / len(GENEVAL_KINDS) for kind in GENEVAL_KINDS}
    for protocol in PROTOCOLS:
        stem = f"gap/{protocol}"
        table[f"{stem}/gap"] = {f"{stem}/understanding": 1.0, f"{stem}/generation": -1.0}
    return table


COMPOSED = _compositions()
"""Figures that are weighted sums of others; made only where every part is there."""


def compositions() -> dict[str, dict[str, float]]:
    """COMPOSED, and what benchmarks compose of their figures."""
    from hermesflow.config.benchmarks import BENCHMARKS

    return COMPOSED | {metric: dict(parts) for one in BENCHMARKS.values() for metric, parts in one.composed.items()}
