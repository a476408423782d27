import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from hermesflow.core.errors import ArtifactError, ConfigError, DataError
from hermesflow.core.images import read_form, read_images, write_images
from hermesflow.data.pairs import read_pairs
from hermesflow.evaluation import prompts
from hermesflow.evaluation.graders.fidelity import Caption, Gaussian, write_reference
from hermesflow.evaluation.graders.reference_origin import origin
from hermesflow.evaluation.worlds import generation
from hermesflow.evaluation.worlds.generation import Request
from hermesflow.models.backbone import load_model
from hermesflow.selfplay.sharding import shard_folder
from hermesflow.stages import draw, gather_drawn
from tests.support.benchmark_world import CAPTIONS, draw_all, make_world


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def world(made, monkeypatch):
    """A world without images, in which a batch is two prompts of four."""
    config, layout = made
    shutil.rmtree(layout.benchmark(0, "base", "geneval").parent, ignore_errors=True)
    monkeypatch.setattr(prompts, "TOGETHER", 8)
    return config, layout


OWN = {"seed": 0, "checkpoint": "base"}
run = partial(draw.run, **OWN, benchmark="geneval")


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


@pytest.mark.parametrize(
    ("benchmark", "ids", "images"),
    [
        ("geneval", [f"{k:05d}" for k in range(7)], 4),
        ("dpg", ["p1", "p2"], 2),
        ("coco", [f"{key:012d}" for key in CAPTIONS], 1),
    ],
)
def test_a_store_has_the_prompts_of_the_file_in_its_order(world, benchmark, ids, images):
    config, layout = world
    found, codes = read_images(draw_all(config, layout, benchmark) / "images.npy")
    assert found == ids
    assert codes.shape == (len(ids), images, config.num_image_tokens)
    assert len({row.tobytes() for prompt in codes for row in prompt}) == len(ids) * images


def test_the_gaps_prompts_are_the_captions_of_held_out_pairs(world):
    config, layout = world
    found, codes = read_images(draw_all(config, layout, "gap") / "images.npy")
    assert found == list(read_pairs(layout.data("gap"))["id"]) and codes.shape[1] == 1


def test_one_shard_and_three_give_the_same_bytes(world):
    config, layout = world
    once = files_of(draw_all(config, layout, "geneval"))
    shutil.rmtree(layout.benchmark(0, "base", "geneval"))
    assert files_of(draw_all(config, layout, "geneval", shards=3)) == once
    assert set(once) == {"images.npy", "images.json"}


def test_an_image_s_random_numbers_are_those_of_seed_benchmark_prompt_and_number(world):
    config, layout = world
    _, codes = read_images(draw_all(config, layout, "geneval") / "images.npy")
    model = load_model(layout.checkpoint(0, "base") / "model", device="cpu").eval()
    request = Request("geneval/00001", 3, "a photo of a bench")
    alone = generation.draw(model, [request], settings=config.sampling.images, seed=0)
    assert np.array_equal(codes[1, 3], alone[0])


def test_a_killed_job_goes_on_from_its_last_batch(world, monkeypatch):
    config, layout = world
    whole = files_of(draw_all(config, layout, "geneval"))
    shutil.rmtree(layout.benchmark(0, "base", "geneval"))
    drawn = []

    def dies(model, requests, **options):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append([one.id for one in requests])
        return generation_draw(model, requests, **options)

    generation_draw = generation.draw
    monkeypatch.setattr(generation, "draw", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config, layout)
    drawn[:] = [[]]  # one more may be drawn before it dies
    with pytest.raises(KeyboardInterrupt):
        run(config, layout)
    assert drawn[1:] == [[f"geneval/{k:05d}" for k in (4, 5) for _ in range(4)]]  # batches 0 and 1 were kept
    monkeypatch.setattr(generation, "draw", generation_draw)
    assert files_of(draw_all(config, layout, "geneval")) == whole
    shard = shard_folder(layout.benchmark(0, "base", "geneval"), shard=0, shards=1)
    assert not list(shard.glob("parts-*"))


@pytest.mark.parametrize("part", ["guidance", "precision"])
def test_batches_kept_under_other_settings_are_not_taken(world, monkeypatch, part):
    config, layout = world
    whole = files_of(draw_all(config, layout, "geneval"))
    shutil.rmtree(layout.benchmark(0, "base", "geneval"))
    images, runtime = config.sampling.images, config.runtime
    if part == "guidance":
        other = replace(config, sampling=replace(config.sampling, images=replace(images, guidance=3.0)))
    else:
        other = replace(config, runtime=replace(runtime, inference_precision="bf16"))
    generation_draw, drawn = generation.draw, []

    def dies(*arguments, **options):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(1)
        return generation_draw(*arguments, **options)

    monkeypatch.setattr(generation, "draw", dies)
    with pytest.raises(KeyboardInterrupt):
        run(other, layout)
    monkeypatch.setattr(generation, "draw", generation_draw)
    assert files_of(draw_all(config, layout, "geneval")) == whole


def test_a_missing_file_is_named_with_its_key_and_origin(world):
    config, layout = world
    own = replace(config.benchmarks.geneval, prompts="nowhere.jsonl")
    other = replace(config, benchmarks=replace(config.benchmarks, geneval=own))
    with pytest.raises(DataError, match=r"nowhere\.jsonl.*benchmarks\.geneval\.prompts.*djghosh13/geneval"):
        draw.run(other, layout, seed=0, checkpoint="base", benchmark="geneval")


def test_missing_reference_statistics_are_told_before_anything_is_drawn(world):
    config, layout = world
    coco = replace(config.benchmarks.coco, reference="nowhere.npz")
    other = replace(config, benchmarks=replace(config.benchmarks, coco=coco))
    with pytest.raises(DataError, match=r"nowhere\.npz.*benchmarks\.coco\.reference.*docs/dpg-and-coco"):
        draw.run(other, layout, seed=0, checkpoint="base", benchmark="coco")


def test_a_reference_of_other_images_is_told_before_anything_is_drawn(world, tmp_path):
    config, layout = world
    made_of = origin([Caption(9, "a red circle"), Caption(10, "a cat")], config.benchmarks.coco.inception)
    write_reference(tmp_path / "other.npz", Gaussian(np.zeros(2), np.eye(2)), **made_of)
    coco = replace(config.benchmarks.coco, reference=str(tmp_path / "other.npz"))
    with pytest.raises(DataError, match=r"other\.npz: statistics of 2 images"):
        draw.run(replace(config, benchmarks=replace(config.benchmarks, coco=coco)), layout, **OWN, benchmark="coco")
    (tmp_path / "other.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"other\.npz: cannot be read as reference statistics"):
        draw.run(replace(config, benchmarks=replace(config.benchmarks, coco=coco)), layout, **OWN, benchmark="coco")


def test_a_benchmark_that_the_config_leaves_out_is_refused(world):
    config, layout = world
    for own in (None, replace(config.benchmarks, geneval=None)):
        with pytest.raises(ConfigError, match=r"no section benchmarks\.geneval"):
            run(replace(config, benchmarks=own), layout)


def test_a_shard_that_lacks_a_prompt_is_found(world):
    config, layout = world
    run(config, layout)
    path = shard_folder(layout.benchmark(0, "base", "geneval"), shard=0, shards=1) / "images.npy"
    ids, codes = read_images(path)
    write_images(path, ids[1:], np.array(codes[1:]), read_form(path))
    with pytest.raises(ArtifactError, match="`00000` is missing"):
        gather_drawn.run(config, layout, seed=0, checkpoint="base", benchmark="geneval", shards=1)
