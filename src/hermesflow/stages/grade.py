"""Stage `grade`: one benchmark's verdict on the images a checkpoint drew for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hermesflow.config.benchmarks import Benchmarks
from hermesflow.config.experiment import Config, as_plain
from hermesflow.config.sections import Source
from hermesflow.core.files import Layout, sha256, write_json, write_manifest, write_table
from hermesflow.core.progress import Progress
from hermesflow.core.seeding import deterministic
from hermesflow.evaluation.benchmarks import dpg, fidelity, geneval, geneval2
from hermesflow.evaluation.benchmarks.answer_probability import TransformersAnswerProbability
from hermesflow.evaluation.benchmarks.drawing import Prompts, read_prompts, there
from hermesflow.evaluation.benchmarks.geneval_detector import ColorClassifier, Detector
from hermesflow.evaluation.benchmarks.grading import (
    Drawn,
    Graded,
    grade_coco,
    grade_dpg,
    grade_geneval,
    grade_geneval2,
    read_drawn,
)
from hermesflow.evaluation.benchmarks.inception import load_inception
from hermesflow.evaluation.benchmarks.kept import Kept
from hermesflow.evaluation.benchmarks.pretrained import PretrainedClip, digest_of, name_of
from hermesflow.evaluation.benchmarks.reference_origin import check_reference
from hermesflow.evaluation.benchmarks.vqa_judge import vqa_judge
from hermesflow.evaluation.evaluated import UNITS
from hermesflow.evaluation.judges.grading import check_judge, grade_gap, judge_of
from hermesflow.evaluation.judges.protocol import png_bytes
from hermesflow.evaluation.worlds.held_out import ask, questions_of, read_split
from hermesflow.models.backbone import load_model
from hermesflow.models.sentence_encoder import load_encoder
from hermesflow.selfplay.scoring import nearest_choice


@dataclass(frozen=True)
class Job:
    """One benchmark of one checkpoint."""

    config: Config
    layout: Layout
    model: Path
    """Folder of the checkpoint's weights."""
    prompts: Prompts
    drawn: Drawn
    progress: Progress
    kept: Kept

    @property
    def own(self) -> Benchmarks:
        """The section `benchmarks`."""
        assert self.config.benchmarks is not None
        return self.config.benchmarks

    @property
    def device(self) -> str:
        """Where scorers run."""
        return self.config.runtime.device


def run(config: Config, layout: Layout, *, seed: int, checkpoint: str, benchmark: str) -> None:
    """Write units, values, facts, rows and manifest of `benchmarks/{benchmark}` of one checkpoint.

    Raises:
        ConfigError: the config has no such benchmark, or a scorer cannot be read.
        DataError: the benchmark's file is missing or is not the benchmark's.
        FetchError: a scorer cannot be had.
        ArtifactError: the images are missing, or of other prompts.
        JudgeError: the judge does not answer.
    """
    torch.set_num_threads(config.runtime.shard_threads)
    if config.runtime.device == "cpu":  # on a GPU torch refuses what has no such version: cuBLAS, cumsum
        deterministic()
    prompts = read_prompts(config.benchmarks, layout, benchmark)
    folder = layout.benchmark(seed, checkpoint, benchmark)
    drawn = read_drawn(layout, prompts, seed=seed, checkpoint=checkpoint, device=torch.device(config.runtime.device))
    what = f"grade {benchmark} of {checkpoint}, seed {seed}"
    progress = Progress(len(prompts.ids) * prompts.images, what, "image")
    model = layout.checkpoint(seed, checkpoint) / "model"
    section = getattr(config.benchmarks, benchmark)
    kept = Kept.of(folder, _origin(section, [folder / "images.npy", layout.tokenizer / "model.safetensors"]))
    job = Job(config, layout, model, prompts, drawn, progress, kept)
    graders = {"geneval": _geneval, "dpg": _dpg, "coco": _coco, "gap": _gap, "geneval2": _geneval2}
    graded = graders[benchmark](job)
    facts = {"protocol": graded.protocol, "items": len(prompts.ids), "images": prompts.images, **graded.notes}
    write_table(folder / "rows.parquet", graded.rows)
    write_table(folder / UNITS, graded.units)
    write_json(folder / "values.json", {metric: asdict(one) for metric, one in graded.values.items()})
    write_json(folder / "facts.json", {**facts, "scorers": _scorers(job, benchmark)})
    inputs = [folder / "images.npy", model / "model.safetensors", layout.tokenizer / "model.safetensors"]
    files = [Path(path) for key in ("prompts", "captions", "reference") if (path := getattr(section, key, None))]
    inputs += files or [layout.data("gap")]
    write_manifest(folder, config={benchmark: as_plain(section)}, inputs=inputs, seed=seed)
    kept.drop()


def _origin(section: Any, inputs: Sequence[Path]) -> list[object]:
    """What decides the verdicts on drawn images: settings, prompts, images, and who grades."""
    files = [*inputs, *(Path(path) for key in ("prompts", "captions") if (path := getattr(section, key, None)))]
    graders = [one for key in ("detector", "clip", "inception", "judge") if (one := getattr(section, key, None))]
    models = [digest_of(one) for one in graders if isinstance(one, str | Source)]  # the gap's judge has a store
    return [as_plain(section), *map(sha256, files), *models]


def _geneval(job: Job) -> Graded:
    own = job.own.geneval
    assert own is not None
    classifier = ColorClassifier(PretrainedClip(own.clip, device=job.device))
    detector, prompts = Detector(own.detector, device=job.device), geneval.read_metadata(Path(own.prompts))
    return grade_geneval(prompts, job.drawn, detector, classifier, job.kept, job.progress.advance)


def _dpg(job: Job) -> Graded:
    own = job.own.dpg
    assert own is not None
    judge = vqa_judge(own.judge, device=job.device)
    return grade_dpg(dpg.read_prompts(Path(own.prompts)), job.drawn, judge, job.kept, job.progress.advance)


def _coco(job: Job) -> Graded:
    own = job.own.coco
    assert own is not None
    reference = fidelity.read_reference(there(own.reference, "coco.reference"))
    extractor, clip = load_inception(own.inception, device=job.device), PretrainedClip(own.clip, device=job.device)
    captions = fidelity.read_captions(Path(own.captions))
    resamples = job.config.evaluation.bootstrap
    again = Progress(resamples, f"{job.progress.what}: bootstrap of the Frechet distance", "resample")
    return grade_coco(
        captions,
        job.drawn,
        extractor,
        reference,
        clip,
        job.kept,
        job.progress.advance,
        resamples=resamples,
        resampled=again.advance,
        device=job.device,
    )


def _gap(job: Job) -> Graded:
    own, config, runtime = job.own.gap, job.config, job.config.runtime
    assert own is not None
    split = read_split(job.layout, "gap")
    asked = questions_of(split)
    real = {id_: png_bytes(image) for id_, image in zip(split.ids, split.images, strict=True)}
    drawn = {id_: png_bytes(job.drawn.of(i, i + 1)[0]) for i, id_ in enumerate(job.prompts.ids)}
    check_judge(own.judge, asked, real=real, drawn=drawn)
    model = load_model(job.model, device=runtime.device, precision=runtime.inference_precision)
    free = ask(config, model, split.seen, split, asked)
    del model  # a local judge needs the room
    encoder = load_encoder(config.scoring.choice_encoder or config.scoring.encoder, device=runtime.device)
    nearest = nearest_choice(free, [one.question.choices for one in asked], encoder)
    judge = judge_of(own.judge, device=runtime.device)
    return grade_gap(judge, asked, split.captions, free=free, nearest=nearest, real=real, drawn=drawn)


def _geneval2(job: Job) -> Graded:
    own = job.own.geneval2
    assert own is not None
    judge = TransformersAnswerProbability(own.judge, device=job.device)
    return grade_geneval2(geneval2.read_prompts(Path(own.prompts)), job.drawn, judge, job.kept, job.progress.advance)


def _scorers(job: Job, benchmark: str) -> dict[str, str]:
    """What graded, by role: repository and revision, or the model an endpoint was asked for."""
    own, scoring = job.own, job.config.scoring
    named: Mapping[str, str | Source] = {}
    if benchmark == "geneval" and own.geneval:
        named = {"detector": own.geneval.detector, "clip": own.geneval.clip}
    elif benchmark == "dpg" and own.dpg:
        named = {"judge": own.dpg.judge}
    elif benchmark == "coco" and own.coco:
        captions = fidelity.read_captions(Path(own.coco.captions))
        reference = check_reference(Path(own.coco.reference), captions, own.coco.inception)
        named = {"inception": own.coco.inception, "clip": own.coco.clip, "reference": reference}
    elif benchmark == "geneval2" and own.geneval2:
        named = {"judge": own.geneval2.judge}
    elif own.gap:
        choices = (scoring.choice_encoder or scoring.encoder).source
        named = {"judge": own.gap.judge.model, "nearest choice": choices}
    return {role: name_of(source) for role, source in named.items()}
