"""Stage `evaluate`: every benchmark of one checkpoint, as raw rows per question and image and as point values.

All images of all benchmarks are drawn in one pass, and all questions about real images answered in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hermesflow.config.experiment import Config
from hermesflow.config.reads import params_of
from hermesflow.config.sections import Decoding
from hermesflow.core.files import Layout, write_json, write_manifest, write_table, write_weights
from hermesflow.core.images import write_images
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.data.pairs import read_pairs
from hermesflow.data.worlds.scenes import Scene
from hermesflow.data.worlds.world import World, world_of
from hermesflow.evaluation import bootstrap
from hermesflow.evaluation.evaluated import FEATURES, UNITS, read_evaluated
from hermesflow.evaluation.metrics import OWN
from hermesflow.evaluation.worlds import clip, gap, generation, self_judged, understanding
from hermesflow.evaluation.worlds.generation import DENSE, Request
from hermesflow.evaluation.worlds.held_out import Split, answer, ask, questions_of, read_split
from hermesflow.models.backbone import UnifiedModel, load_codec, load_model, seen_of
from hermesflow.models.sentence_encoder import SentenceEncoder, load_encoder
from hermesflow.selfplay.sampling import sample_texts
from hermesflow.selfplay.scoring import nearest_choice

SAMPLES_PER_KIND = 2  # prompts of each kind kept for the figure of samples
SAMPLES = 14  # prompts kept where they have no kinds


@dataclass(frozen=True)
class Generations:
    """Images of one checkpoint, what was asked for, and what the judge sees in them."""

    requests: list[Request]
    generated: Tensor
    """(N, *generated)."""
    images: np.ndarray
    """The same in pixels, (N, H, W, 3) uint8."""
    scenes: list[Scene]

    def places_of(self, ids: Iterable[str]) -> list[int]:
        """Places of the images of some prompts."""
        wanted = set(ids)
        return [i for i, request in enumerate(self.requests) if request.id in wanted]


@dataclass(frozen=True)
class Measured:
    """What the benchmarks of one checkpoint leave."""

    requests: list[Request]
    """What images were generated for."""
    tables: dict[str, pd.DataFrame]
    """Raw rows by name of file."""
    units: list[pd.DataFrame]
    features: dict[str, Tensor]
    sample_ids: list[str]
    samples: Tensor
    """(N, *generated), the images to show."""


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str) -> None:
    """Write `evaluation/` of one checkpoint: raw tables, units, features, samples and metrics.

    Raises:
        ArtifactError: an input is missing, truncated, or its ids are not those of the pairs.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    if config.runtime.device == "cpu":  # on a GPU torch refuses what has no such version: cuBLAS, cumsum
        deterministic()
    device = torch.device(config.runtime.device)
    folder = layout.checkpoint(seed, checkpoint)
    model = load_model(folder / "model", device=device, precision=config.runtime.inference_precision)
    real, held_out = read_split(layout, "understanding"), read_split(layout, "gap")
    prompts = list(read_pairs(layout.data("prompts")).remove_columns("image"))
    inputs = [layout.data(split) for split in ("understanding", "gap", "prompts")]
    inputs += [folder / "model" / "model.safetensors", layout.tokenizer / "model.safetensors"]
    judged = any(world_of(config.data).parse_caption(caption) for caption in held_out.captions.values())
    measure = _with_judge if judged else _by_itself
    results = measure(config, layout, model, real, held_out, prompts, stream=(seed, checkpoint))
    out = folder / "evaluation"
    for name, table in results.tables.items():
        write_table(out / f"{name}.parquet", table)
    _write_summary(out, pd.concat(results.units, ignore_index=True), results.features)
    write_images(out / "samples.npy", results.sample_ids, results.samples.numpy()[:, None], model.generated)
    if judged:
        inputs.append(layout.clip / clip.WEIGHTS)
    counts = {"prompts that the model cut": sum(model.is_cut(sorted({one.caption for one in results.requests})))}
    write_manifest(out, config=params_of(config, "evaluate"), inputs=inputs, seed=seed, counts=counts)


def _with_judge(
    config: Config,
    layout: Layout,
    model: UnifiedModel,
    real: Split,
    held_out: Split,
    prompts: Sequence[dict[str, Any]],
    *,
    stream: tuple[int, str],
) -> Measured:
    """All benchmarks of a small world, whose judge reads every image."""
    (seed, checkpoint), world = stream, world_of(config.data)
    outputs = _draw(config, layout, model, prompts, [*held_out.rows, *real.rows], seed=seed, name=checkpoint)
    answers, captions = _understand(config, model, real, world)
    table = _ask_gap(config, model, held_out, outputs, world)
    extractor = clip.load_clip(layout.clip, device=config.runtime.device)
    compared = [*held_out.rows, *real.rows][: config.evaluation.fid_images]
    faithful, features = _fidelity(extractor, compared, real, held_out, outputs)
    kinds = {row["id"]: row["kind"] for row in prompts}
    images, dense = _grade_prompts(kinds, outputs, world)
    units = [understanding.answer_units(answers), understanding.caption_units(captions), faithful]
    units += [generation.geneval_units(images), generation.dense_units(dense), gap.gap_units(table, held_out.captions)]
    tables = {"answers": answers, "captions": captions, "images": images, "dense": dense, "gap": table}
    return Measured(outputs.requests, tables, units, features, *_samples(prompts, outputs))


def _by_itself(
    config: Config,
    layout: Layout,
    model: UnifiedModel,
    real: Split,
    held_out: Split,
    prompts: Sequence[dict[str, Any]],
    *,
    stream: tuple[int, str],
) -> Measured:
    """What needs no other judge: VQA and captions of real images, and the gap by the model's own answers.

    Tables of benchmarks that need one are empty, and so are the features.
    """
    seed, checkpoint = stream
    samples = prompts[:SAMPLES]
    requests = [Request(row["id"], 0, row["caption"]) for row in [*held_out.rows, *samples]]
    progress = Progress(len(requests), f"evaluate {checkpoint}, seed {seed}: draw", "image")
    images = generation.draw(model, requests, settings=config.sampling.images, seed=seed, progress=progress.advance)
    codec = partial(load_codec, layout.tokenizer, device=config.runtime.device)
    seen = seen_of(model, images[: len(held_out.rows)], codec)
    encoder = load_encoder(config.scoring.choice_encoder or config.scoring.encoder, device=config.runtime.device)
    questions, about_real = questions_of(held_out), questions_of(real)
    on_real = _choose(config, model, encoder, held_out.seen, held_out, questions)
    on_generated = _choose(config, model, encoder, seen, held_out, questions)
    table = self_judged.gap_table(questions, real=on_real, generated=on_generated)
    answers = self_judged.answer_table(about_real, _choose(config, model, encoder, real.seen, real, about_real))
    captions = _captions(real, _describe(config, model, real.seen), normal=self_judged.plain_words)
    empty = pd.DataFrame(columns=["kind", "id", "image", "caption", "accepted"])
    tables = {"answers": answers, "captions": captions, "images": empty, "dense": empty, "gap": table}
    units = [understanding.answer_units(answers), understanding.caption_units(captions)]
    units.append(gap.gap_units(table, held_out.captions, self_judged.SIDES))
    features = {name: torch.zeros(0, 1) for name in ("generated", "real")}
    return Measured(requests, tables, units, features, [row["id"] for row in samples], images[len(held_out.rows) :])


def _choose(
    config: Config,
    model: UnifiedModel,
    encoder: SentenceEncoder,
    seen: Tensor,
    split: Split,
    questions: Sequence[gap.PairQuestion],
) -> list[str]:
    """The choices nearest to the model's free answers about images in the order of a split."""
    return nearest_choice(
        ask(config, model, seen, split, questions), [one.question.choices for one in questions], encoder
    )


def _draw(
    config: Config,
    layout: Layout,
    model: UnifiedModel,
    prompts: Sequence[dict[str, Any]],
    pairs: Sequence[dict[str, Any]],
    *,
    seed: int,
    name: str,
) -> Generations:
    """Draw several images of each benchmark prompt and one of each of the first pairs (all that the gap needs)."""
    settings = config.evaluation
    count = max(settings.fid_images, config.data.gap_pairs)
    requests = [Request(row["id"], k, row["caption"]) for row in prompts for k in range(settings.geneval_images)]
    requests += [Request(row["id"], 0, row["caption"]) for row in pairs[:count]]
    progress = Progress(len(requests), f"evaluate {name}, seed {seed}: draw", "image")
    images = generation.draw(model, requests, settings=config.sampling.images, seed=seed, progress=progress.advance)
    codec = load_codec(layout.tokenizer, device=torch.device(config.runtime.device))
    pixels = codec.to_pixels(images)
    return Generations(requests, images, pixels, world_of(config.data).read_images(pixels))


def _understand(config: Config, model: UnifiedModel, real: Split, world: World) -> tuple[pd.DataFrame, pd.DataFrame]:
    items = understanding.items_of(real.rows, world)
    place = {key: i for i, key in enumerate(real.ids)}
    owners = torch.tensor([place[item.id] for item in items], dtype=torch.long)
    answers = answer(config, model, real.seen, owners, [item.question for item in items])
    return understanding.grade(items, answers), _captions(real, _describe(config, model, real.seen), normal=str)


def _captions(real: Split, texts: Sequence[str], *, normal: Callable[[str], str]) -> pd.DataFrame:
    """Captions of real images with their CIDEr, which is counted on `normal` texts."""
    truth = real.captions
    captions = {key: normal(text) for key, text in zip(real.ids, texts, strict=True)}
    scores = understanding.cider_scores(captions, {key: normal(text) for key, text in truth.items()})
    columns = {"id": real.ids, "caption": texts, "reference": [truth[key] for key in real.ids]}
    return pd.DataFrame({**columns, "cider": [scores[key] for key in real.ids]})


def _ask_gap(config: Config, model: UnifiedModel, held_out: Split, outputs: Generations, world: World) -> pd.DataFrame:
    questions = questions_of(held_out)
    free = ask(config, model, held_out.seen, held_out, questions)
    encoder = load_encoder(config.scoring.choice_encoder or config.scoring.encoder, device=config.runtime.device)
    nearest = nearest_choice(free, [one.question.choices for one in questions], encoder)
    scenes = {outputs.requests[i].id: outputs.scenes[i] for i in outputs.places_of(held_out.ids)}
    real = dict(zip(held_out.ids, world.read_images(held_out.images), strict=True))
    return gap.gap_table(questions, free=free, nearest=nearest, real=real, generated=scenes, read=world.answer)


def _fidelity(
    extractor: clip.Clip, pairs: Sequence[dict[str, Any]], real: Split, held_out: Split, outputs: Generations
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Units of the image-text score, and features of drawn (in order of ids) and real images."""
    places = sorted(outputs.places_of(row["id"] for row in pairs), key=lambda i: outputs.requests[i].id)
    requests = [outputs.requests[i] for i in places]
    images = outputs.images[places]
    scores = clip.image_text_scores(extractor, images, [request.caption for request in requests])
    reference = np.concatenate([held_out.images, real.images])
    features = {"generated": clip.features(extractor, images), "real": clip.features(extractor, reference)}
    units = generation.fidelity_units([request.id for request in requests], scores)
    return units, {name: torch.from_numpy(rows) for name, rows in features.items()}


def _grade_prompts(kinds: dict[str, str], outputs: Generations, world: World) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The judge's verdict on each image of a benchmark prompt, and on each question of the dense ones."""
    places = outputs.places_of(kinds)
    rows = [(outputs.requests[i], outputs.scenes[i]) for i in places]
    images = pd.DataFrame(
        [(kinds[r.id], r.id, r.image, r.caption, world.accepts(scene, r.caption)) for r, scene in rows],
        columns=["kind", "id", "image", "caption", "accepted"],
    )
    dense = [row for row in rows if kinds[row[0].id] == DENSE]
    return images, generation.dense_table([r for r, _ in dense], [scene for _, scene in dense], world.lexicon)


def _describe(config: Config, model: UnifiedModel, seen: Tensor) -> list[str]:
    """The greedy caption of each image."""
    texts = []
    for part in seen.split(config.scoring.batch_images):
        texts += sample_texts(
            model,
            part.to(config.runtime.device),
            torch.arange(len(part)),
            [model.caption_prompt] * len(part),
            decodings=[Decoding(top_k=1, temperature=1.0)] * len(part),
            max_new_tokens=config.sampling.captions.max_new_tokens,
            generators=[torch.Generator()] * len(part),  # greedy: its numbers decide nothing
        )
    return texts


def _write_summary(out: Path, units: pd.DataFrame, features: dict[str, Tensor]) -> None:
    write_table(out / UNITS, units, numbers=("numerator", "denominator"))
    write_weights(out / FEATURES, features)
    write_json(out / "metrics.json", bootstrap.point_values(read_evaluated(out)))


def _samples(prompts: Sequence[dict[str, Any]], outputs: Generations) -> tuple[list[str], Tensor]:
    """A few prompts of each kind and the first images of each, (N, *generated)."""
    ids_by_kind: dict[str, list[str]] = {}
    for row in prompts:
        if row["kind"].startswith(OWN):
            continue
        ids_by_kind.setdefault(row["kind"], []).append(row["id"])
    ids = [key for keys in ids_by_kind.values() for key in keys[:SAMPLES_PER_KIND]]
    first = {request.id: i for i, request in enumerate(outputs.requests) if request.image == 0}
    return ids, outputs.generated[[first[key] for key in ids]]
