"""Strict acceptance of prompts that nothing else is drawn for: what a training may be stopped by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from hermesflow.config.experiment import Config
from hermesflow.config.sections import Data
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout, read_table
from hermesflow.data.worlds.language import KINDS
from hermesflow.data.worlds.world import World, world_of
from hermesflow.evaluation.worlds.generation import Request, draw
from hermesflow.models.backbone import UnifiedModel, load_codec

SPLITS = ("understanding", "prompts")
"""What else is drawn of the part of the captions that no training sees."""
_DRAWS = 60  # scenes drawn per prompt before the captions of a kind count as used up


def strict_acceptance(
    config: Config, layout: Layout, model: UnifiedModel, *, prompts: int, seed: int
) -> tuple[Callable[[], float], dict[str, int]]:
    """A function that draws one image of each prompt and gives the share that the judge accepts.

    The prompts are the same for every checkpoint and seed, and so are the random numbers of each within a seed.

    Returns:
        The function, and how many prompts there are of each kind.

    Raises:
        DataError: the world has no caption left.
    """
    assert isinstance(config.data, Data)  # a config of pairs from elsewhere is refused
    world = world_of(config.data)
    used = [caption for split in SPLITS for caption in read_table(layout.data(split), ["caption"])["caption"]]
    rows = unused_captions(world, prompts, used, config=config.data)
    requests = [Request(f"stopping-{kind}-{index}", 0, caption) for index, (kind, caption) in enumerate(rows)]
    codec = load_codec(layout.tokenizer, device=config.runtime.device)

    def measure() -> float:
        images = draw(model, requests, settings=config.sampling.images, seed=seed)
        scenes = world.read_images(codec.to_pixels(images))
        return sum(map(world.accepts, scenes, (one.caption for one in requests))) / len(requests)

    kinds = Counter(kind for kind, _ in rows)
    return measure, {kind: kinds[kind] for kind in KINDS}


def unused_captions(world: World, count: int, used: Iterable[str], *, config: Data) -> list[tuple[str, str]]:
    """Captions of which neither the content is that of a used one nor two are alike, kinds taking turns.

    Returns:
        (kind, caption), at most `count`; fewer of a kind whose captions are used up, and then more of the others.

    Raises:
        DataError: there are none.
    """
    facts = map(world.parse_caption, used)
    known, found = {one.content for one in facts if one}, list[tuple[str, str]]()
    for row in world.make_pairs("stopping", count * _DRAWS, config=config):
        said = world.parse_caption(row["caption"])
        if said and said.content not in known:
            known.add(said.content)
            found.append((row["kind"], row["caption"]))
        if len(found) == count:
            break
    if not found:
        raise DataError("training.stopping: the evaluation uses up all held-out captions; lower evaluation's numbers.")
    return found
