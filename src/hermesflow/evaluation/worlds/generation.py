"""Generation benchmarks on drawn images: micro counterparts of GenEval, DPG-Bench, FID and CLIP score.

Images are graded by the independent judge of the world, which reads pixels and knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.sections import ImageSampling
from hermesflow.core.images import as_stored, as_tensor
from hermesflow.core.seeding import generator
from hermesflow.data.worlds.language import Lexicon, Mention, article, parse_caption, phrase
from hermesflow.data.worlds.scenes import CELLS, Scene, relation_of
from hermesflow.evaluation.bootstrap import FIDELITY_POOL
from hermesflow.evaluation.metrics import GENEVAL_KINDS, OWN
from hermesflow.evaluation.worlds.understanding import units_table
from hermesflow.models.backbone import UnifiedModel

DENSE = "dense"
_ROWS = 250  # images drawn in turn (memory only)


@dataclass(frozen=True)
class Request:
    """One image to be drawn."""

    id: str
    image: int
    """Number of the image among those of its prompt."""
    caption: str


@dataclass(frozen=True)
class Check:
    """One node of a dense prompt's question tree."""

    question: str
    parents: tuple[int, ...]
    """Earlier nodes that this one depends on."""
    right: bool


def draw(
    model: UnifiedModel, requests: Sequence[Request], *, settings: ImageSampling, seed: int, progress=lambda n: None
) -> Tensor:
    """Draw images; each has its own random numbers, the same for every checkpoint of a seed.

    Returns:
        (N, *generated) on the CPU, as they are stored.
    """
    parts = []
    for start in range(0, len(requests), _ROWS):
        batch = requests[start : start + _ROWS]
        generators = [generator(seed, "evaluate", r.id, r.image) for r in batch]
        with model.naming():
            images = model.generate_images([r.caption for r in batch], settings=settings, generators=generators)
        parts.append(as_stored(images, model.generated))
        progress(len(batch))
    return torch.cat(parts) if parts else as_tensor(model.generated.empty(0))


def dense_checks(caption: str, scene: Scene, lexicon: Lexicon) -> list[Check]:
    """The question tree of a dense caption, answered from what the judge saw.

    Per object: is there such a thing; then, depending on it, its colour, size and place. Per two objects in one row
    or column: their relation, depending on both. And the ground, if it is said.

    Source: Hu et al. 2024 (DPG-Bench), after Cho et al. 2024 (Davidsonian scene graph).
    """
    facts = parse_caption(caption, lexicon)
    checks: list[Check] = []
    roots = []
    for mention in facts.mentions if facts else ():
        root = len(checks)
        roots.append(root)
        name = mention.noun
        checks.append(Check(f"is there {article(name)} {name}", (), _seen(scene, Mention(1, name))))
        parts = (
            (mention.color, Mention(1, name, color=mention.color)),
            (mention.size, Mention(1, name, size=mention.size)),
            (None if mention.cell is None else CELLS[mention.cell], Mention(1, name, cell=mention.cell)),
        )
        checks += [
            Check(f"is {article(name)} {name} {word}", (root,), _seen(scene, part)) for word, part in parts if word
        ]
    for b, second in enumerate(facts.mentions if facts else ()):
        for a, first in enumerate(facts.mentions[:b] if facts else ()):
            if first.cell is None or second.cell is None or not (relation := relation_of(first.cell, second.cell)):
                continue
            question = f"is {phrase(first, color=True, size=None)} {relation} {phrase(second, color=True, size=None)}"
            checks.append(Check(question, (roots[a], roots[b]), _related(scene, first, relation, second)))
    if facts and facts.ground:
        checks.append(Check(f"is it {lexicon.grounds[facts.ground]}", (), scene.ground == facts.ground))
    return checks


def credited(checks: Sequence[Check]) -> list[bool]:
    """Which answers count: right, and all they depend on counted (DPG-Bench's dependency rule)."""
    counted: list[bool] = []
    for check in checks:
        counted.append(check.right and all(counted[parent] for parent in check.parents))
    return counted


def dense_table(requests: Sequence[Request], scenes: Sequence[Scene], lexicon: Lexicon) -> pd.DataFrame:
    """One row per question of each dense image: id, image, question, right, credited."""
    rows = []
    for request, scene in zip(requests, scenes, strict=True):
        checks = dense_checks(request.caption, scene, lexicon)
        for check, counted in zip(checks, credited(checks), strict=True):
            rows.append((request.id, request.image, check.question, check.right, counted))
    return pd.DataFrame(rows, columns=["id", "image", "question", "right", "credited"])


def geneval_units(images: pd.DataFrame) -> pd.DataFrame:
    """Accepted images per prompt, by GenEval kind.

    Args:
        images: columns kind, caption, accepted; other kinds than GenEval's are left out. Images of one caption are
            one unit, under whatever ids.
    """
    graded = images[images["kind"].isin([prefix + kind for prefix in ("", OWN) for kind in GENEVAL_KINDS])]
    sums = graded.groupby(["kind", "caption"], sort=True)["accepted"].agg(["sum", "count"])
    return units_table([(f"geneval/{kind}", f"geneval/{kind}", key, *row) for (kind, key), *row in sums.itertuples()])


def dense_units(checks: pd.DataFrame) -> pd.DataFrame:
    """Mean credited share over the images of each dense prompt (0 to 1; DPG-Bench prints it times 100)."""
    scores = checks.groupby(["id", "image"], sort=True)["credited"].mean().groupby(level="id").agg(["sum", "count"])
    return units_table([("dpg", DENSE, *row) for row in scores.itertuples()])


def fidelity_units(ids: Iterable[str], scores: Iterable[float]) -> pd.DataFrame:
    """Image-text score of the image drawn from each prompt."""
    return units_table([("clip_score", FIDELITY_POOL, *row, 1) for row in zip(ids, scores, strict=True)])


def _seen(scene: Scene, mention: Mention) -> bool:
    return any(mention.matches(thing) for thing in scene.objects)


def _related(scene: Scene, first: Mention, relation: str, second: Mention) -> bool:
    a, b = (Mention(1, m.noun, m.color) for m in (first, second))
    return any(
        relation_of(one.cell, other.cell) == relation
        for one in scene.objects
        for other in scene.objects
        if a.matches(one) and b.matches(other)
    )
