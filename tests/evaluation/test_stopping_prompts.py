"""What early stopping measures: the share of prompts of its own that are drawn right."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hermesflow.config.load import load_config
from hermesflow.core.errors import DataError
from hermesflow.core.files import Layout
from hermesflow.core.images import ImageForm
from hermesflow.data.pairs import read_pairs, write_pairs
from hermesflow.data.worlds.language import KINDS
from hermesflow.data.worlds.world import BUCKETS, world_of
from hermesflow.evaluation.worlds import stopping

CONFIGS = {name: load_config(f"config/{name}.yaml") for name in ("pictures", "smoke")}
SPLITS = [split for split in BUCKETS if split != "stopping"]


def content_of(world, caption):
    return world.parse_caption(caption).content


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_are_of_contents_that_no_split_has(name):
    config, world = CONFIGS[name], world_of(CONFIGS[name].data)
    splits = {split: [row["caption"] for row in world.make_pairs(split, 140, config=config.data)] for split in SPLITS}
    used = [caption for split in ("understanding", "prompts") for caption in splits[split]]
    rows = stopping.unused_captions(world, 40, used, config=config.data)
    assert rows == stopping.unused_captions(world, 40, used, config=config.data)
    assert stopping.unused_captions(world, 15, used, config=config.data) == rows[:15]
    contents = [content_of(world, caption) for _, caption in rows]
    assert len(set(contents)) == 40
    own = {content_of(world, caption) for _, caption in world.prompts()}
    others = {content_of(world, caption) for captions in splits.values() for caption in captions}
    assert not set(contents) & (others | own)
    kinds = {kind for kind, _ in rows}
    assert {"position", "dense", "color_attribution"} <= kinds  # the others have few captions


def test_a_world_without_a_caption_left_is_an_error():
    config = CONFIGS["smoke"]
    row = next(world_of(config.data).make_pairs("stopping", 1, config=config.data))
    one = SimpleNamespace(
        make_pairs=lambda *args, **kwargs: iter([row]), parse_caption=world_of(config.data).parse_caption
    )
    assert stopping.unused_captions(one, 3, [], config=config.data) == [(row["kind"], row["caption"])]
    with pytest.raises(DataError, match=r"training\.stopping: the evaluation uses up all held-out captions"):
        stopping.unused_captions(one, 3, [row["caption"]], config=config.data)


class Painter:
    """Draws what it is told, but for every third prompt nothing; it notes what it was asked."""

    def __init__(self, world, data):
        rows = world.make_pairs("stopping", 600, config=data)
        self.pictures = {row["caption"]: np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows}
        self.generated = ImageForm("pixels", (3, data.image_size, data.image_size), "uint8")
        self.asked = []

    def naming(self):
        return torch.no_grad()

    def generate_images(self, prompts, *, settings, generators):
        self.asked.append((list(prompts), settings, [g.initial_seed() for g in generators]))
        images = np.stack([self.pictures[one] for one in prompts])
        images[::3] = 255
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_figure_is_the_share_that_the_judge_accepts_of_the_same_prompts_every_time(name, tmp_path, monkeypatch):
    config, layout = CONFIGS[name], Layout(tmp_path / "results")
    world = world_of(config.data)
    for split in stopping.SPLITS:
        write_pairs(layout.data(split), list(world.make_pairs(split, 35, config=config.data)))
    model = Painter(world, config.data)
    codec = SimpleNamespace(to_pixels=lambda images: images.numpy().transpose(0, 2, 3, 1))
    monkeypatch.setattr(stopping, "load_codec", lambda folder, device: codec)
    measure, kinds = stopping.strict_acceptance(config, layout, model, prompts=30, seed=5)
    assert measure() == measure() == pytest.approx(20 / 30)
    (prompts, settings, seeds), again = model.asked
    assert again == (prompts, settings, seeds) and settings == config.sampling.images
    assert len(set(prompts)) == len(set(seeds)) == 30 == sum(kinds.values()) and list(kinds) == list(KINDS)
    stopping.strict_acceptance(config, layout, model, prompts=30, seed=6)[0]()
    assert model.asked[-1][0] == prompts and not set(model.asked[-1][2]) & set(seeds)
    used = {content_of(world, row["caption"]) for split in stopping.SPLITS for row in read_pairs(layout.data(split))}
    assert not used & {content_of(world, caption) for caption in prompts}
