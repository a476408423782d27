"""A tiny checkpoint with every drawn benchmark: files in their true formats, tiny models of the true classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hermesflow.config.benchmarks import Benchmarks, Understanding
from hermesflow.config.experiment import Config
from hermesflow.config.judges import AnyJudge, LocalVlm
from hermesflow.config.load import load_config
from hermesflow.config.sections import Source
from hermesflow.core.files import Layout, sha256
from hermesflow.core.images import write_images
from hermesflow.data.pairs import read_pairs
from hermesflow.evaluation.benchmarks.coco import Coco
from hermesflow.evaluation.benchmarks.dpg import CSV_COLUMNS, DpgBench
from hermesflow.evaluation.benchmarks.gap import Gap
from hermesflow.evaluation.benchmarks.geneval import GenEval
from hermesflow.evaluation.graders.inception import Inception
from hermesflow.models.backbone import new_model
from hermesflow.models.codecs import image_form
from hermesflow.models.showo.codec import ShowOCodec
from hermesflow.models.showo.magvit import MagVitV2
from hermesflow.stages import data, draw, gather_drawn
from tests.support.benchmark_models import save_clip, save_detector, save_vilt

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"
CAT, BENCH = ({"class": name, "count": 1} for name in ("cat", "bench"))
GENEVAL = (
    {"tag": "single_object", "include": [CAT], "prompt": "a photo of a cat"},
    {"tag": "single_object", "include": [BENCH], "prompt": "a photo of a bench"},
    {"tag": "two_object", "include": [BENCH, CAT], "prompt": "a photo of a bench and a cat"},
    {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "a photo of two benchs"},
    {"tag": "colors", "include": [{**BENCH, "color": "red"}], "prompt": "a photo of a red bench"},
    {"tag": "position", "include": [BENCH, {**CAT, "position": ["above", 0]}], "prompt": "a cat above a bench"},
    {"tag": "color_attr", "include": [{**BENCH, "color": "red"}, CAT], "prompt": "a photo of a red bench and a cat"},
)
"""The detector takes everything for cats: the first prompt alone is drawn well."""
DPG = (
    ("p1", "A red cat, asleep.", "", "1", "0", "entity", "whole", "entity - whole (cat)", "is there a cat?"),
    ("p1", "A red cat, asleep.", "", "2", "1", "attribute", "color", "color (cat, red)", "is the cat red?"),
    ("p2", "A cat", "", "1", "0", "entity", "whole", "entity - whole (cat)", "is there a cat?"),
)
UNTRIED = "tiny models of random weights"
WITH_IMAGES = ("geneval", "dpg", "coco", "gap")
"""Benchmarks of the world whose images are generated."""
CAPTIONS = {9: "a red circle", 74: "a blue square", 133: "two red circles"}


def make_world(folder: Path, judge: AnyJudge | None = None) -> tuple[Config, Layout]:
    """Held-out pairs, tokenizer and base model as earlier stages leave them, and what the benchmarks need."""
    config = load_config(SMOKE)
    config = replace(
        config,
        data=replace(config.data, base_pairs=42, pairs=4, gap_pairs=3),
        evaluation=replace(config.evaluation, understanding_images=3, geneval_prompts=1, dense_prompts=1),
        sampling=replace(config.sampling, images=replace(config.sampling.images, steps=2)),
        benchmarks=sections(folder, judge or LocalVlm(kind="local", model=str(folder / "vlm"), cache="c")),
    )
    layout = Layout(folder / "results")
    data.run(config, layout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ShowOCodec(MagVitV2(config.image_tokenizer), config.data.image_size).save(layout.tokenizer)
    ids = list(read_pairs(layout.data("gap"))["id"])
    codes = np.random.default_rng(0).integers(0, config.codebook_size, (len(ids), 1, config.num_image_tokens))
    write_images(layout.seen("gap"), ids, codes, image_form(config.data.image_size, config.image_tokenizer))
    new_model(config, seed=0).save(layout.checkpoint(0, "base") / "model")
    return config, layout


def sections(folder: Path, judge: AnyJudge) -> Benchmarks:
    """The section `benchmarks`, with all its files."""
    write_files(folder)
    clip = save_clip(folder / "clip")
    inception = folder / "inception" / "inception.safetensors"
    inception.parent.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(Inception().state_dict(), inception)
    files = {inception.name: sha256(inception)}
    return Benchmarks(
        untried=UNTRIED,
        geneval=geneval_section(folder, clip=clip),
        dpg=DpgBench(prompts=str(folder / "dpg_bench.csv"), images=2, judge=str(yes_man(folder / "vilt"))),
        coco=Coco(
            captions=str(folder / "captions.csv"),
            reference=str(folder / "reference.npz"),
            inception=Source(folder=str(inception.parent), files=files),
            clip=str(clip),
        ),
        understanding=Understanding(batch_size=2, python=str(folder / "no-python")),
        gap=Gap(judge=judge),
    )


def geneval_section(folder: Path, clip: Path | None = None) -> GenEval:
    """The section `benchmarks.geneval`, with its files."""
    prompts = write_lines(folder / "g.jsonl", GENEVAL)
    detector, clip = save_detector(folder / "detector"), clip or save_clip(folder / "clip")
    return GenEval(prompts=str(prompts), detector=str(detector), clip=str(clip))


def write_lines(path: Path, rows: Iterable[dict]) -> Path:
    """A JSON object a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_files(folder: Path) -> None:
    """dpg_bench.csv, a list of captions and reference statistics."""
    with (folder / "dpg_bench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([CSV_COLUMNS, *DPG])
    rows = "".join(f"{key},{caption}\n" for key, caption in CAPTIONS.items())
    np.savez(folder / "reference.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    (folder / "captions.csv").write_text(f"image_id,caption\n{rows}")


def yes_man(folder: Path) -> Path:
    """ViLT that says yes to everything."""
    from transformers import ViltForQuestionAnswering

    model = ViltForQuestionAnswering.from_pretrained(save_vilt(folder))
    with torch.no_grad():
        model.classifier[-1].bias[0] += 100
    model.save_pretrained(folder)
    return folder


def draw_all(config: Config, layout: Layout, benchmark: str, *, shards: int = 1) -> Path:
    """Draw and gather; the folder of the benchmark."""
    own = {"seed": 0, "checkpoint": "base", "benchmark": benchmark}
    for shard in range(shards):
        draw.run(config, layout, **own, shard=shard, shards=shards)
    gather_drawn.run(config, layout, **own, shards=shards)
    return layout.benchmark(0, "base", benchmark)
