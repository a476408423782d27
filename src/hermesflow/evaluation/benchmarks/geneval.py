"""GenEval: what a prompt asks for, what a detector found in an image, and whether the two agree.

The rules are those of the released evaluation, so that figures can be compared: only the most confident objects of a
class are looked at, further ones do no harm unless the prompt excludes them, and nothing is suppressed by overlap.
The detector and the colour classifier are in `graders.geneval_detector`; docs/geneval.md compares with the original.

Source: Ghosh et al. 2023 (GenEval, arXiv 2310.11513), and evaluation/evaluate_images.py of its repository.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermesflow.config.sections import Positive, Source, section
from hermesflow.data.geneval import COLORS, OBJECTS
from hermesflow.evaluation.benchmark import ABLATION, GENERATION, Column, Export, ImageBenchmark, Plan
from hermesflow.evaluation.graders.geneval_objects import Detection
from hermesflow.evaluation.metrics import GENEVAL_KINDS
from hermesflow.evaluation.prompts import Prompts, json_lines, read_json_lines

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from hermesflow.core.files import Layout
    from hermesflow.evaluation.grading import Graded, Job

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's own names of the six kinds, in the order of `GENEVAL_KINDS`."""
KINDS = dict(zip(TAGS, GENEVAL_KINDS, strict=True))
RELATIONS = ("left of", "right of", "above", "below")
CONFIDENCE = 0.3
COUNTING_CONFIDENCE = 0.9
MOST_OBJECTS = 16
"""At most so many objects of a class are kept."""
POSITION_THRESHOLD = 0.1
"""Centres must lie further apart than this share of the two objects' summed extents."""
TABLE_COLUMNS = ("prompt", "image", "kind", "caption", "accepted", "reason", "detections")
_CLAUSE_KEYS = {"class", "count", "color", "position"}
_NO_OFFSET = 1e-3  # pixels
_DIRECTION = 0.5  # sine or cosine of 30 degrees: how far a relation reaches


@dataclass(frozen=True)
class Clause:
    """So many objects of one class, perhaps of a colour, perhaps placed relative to an earlier clause's objects."""

    name: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None
    """Relation, and index of the earlier clause of `include` it refers to."""


@dataclass(frozen=True)
class Metadata:
    """One line of evaluation_metadata.jsonl."""

    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    @property
    def kind(self) -> str:
        """The kind's name in `GENEVAL_KINDS`."""
        return KINDS[self.tag]

    @property
    def confidence(self) -> float:
        """What a detection's score must exceed."""
        return COUNTING_CONFIDENCE if self.tag == "counting" else CONFIDENCE


Detections = Mapping[str, Sequence[Detection]]
"""Objects by GenEval's class name; those of a class from the most confident to the least."""
ColourOf = Callable[[str, Sequence[Detection]], Sequence[str]]
"""Colours of some objects of a class, one of COLORS each."""


def read_metadata(path: Path) -> list[Metadata]:
    """Read prompts in GenEval's own format, one JSON object a line.

    Args:
        path: evaluation_metadata.jsonl.

    Raises:
        DataError: unreadable, or a line that says something else than GenEval's lines do.
    """
    return read_json_lines(path, metadata_of, original="GenEval's prompts/evaluation_metadata.jsonl")


def metadata_of(row: Mapping[str, Any]) -> Metadata:
    """Check one decoded line.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is no line of GenEval's.
    """
    if row["tag"] not in KINDS:
        raise ValueError(f"tag {row['tag']!r} is none of {', '.join(TAGS)}")
    include = tuple(_clause(clause, before) for before, clause in enumerate(row["include"]))
    exclude = tuple(_clause(clause, 0) for clause in row.get("exclude", ()))
    if not include or not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError("`include` or `prompt` is empty")
    return Metadata(row["tag"], row["prompt"], include, exclude)


def _clause(clause: Mapping[str, Any], before: int) -> Clause:
    count, color, position = clause["count"], clause.get("color"), clause.get("position")
    if unknown := set(clause) - _CLAUSE_KEYS:
        raise ValueError(f"{clause} has the keys {sorted(unknown)}, which are none of GenEval's")
    if clause["class"] not in OBJECTS:
        raise ValueError(f"class {clause['class']!r} is none of GenEval's 80 objects")
    if type(count) is not int or count < 1:
        raise ValueError(f"{clause} needs a count of 1 or more")
    if color is not None and color not in COLORS:
        raise ValueError(f"color {color!r} is none of {', '.join(COLORS)}")
    if position is None:
        return Clause(clause["class"], count, color)
    relation, target = position
    if relation not in RELATIONS or type(target) is not int or not 0 <= target < before:
        raise ValueError(f"position {position!r} needs one of {', '.join(RELATIONS)} and the index of an earlier class")
    return Clause(clause["class"], count, color, (relation, target))


def strongest(detections: Detections, confidence: float) -> dict[str, list[Detection]]:
    """The objects that are graded: score above the confidence, at most 16 a class, the most confident first."""
    objects = {}
    for name, instances in detections.items():
        good = sorted((one for one in instances if one.score > confidence), key=lambda one: -one.score)
        if good:
            objects[name] = good[:MOST_OBJECTS]
    return objects


def grade(metadata: Metadata, detections: Detections, colour_of: ColourOf) -> tuple[bool, str]:
    """Whether an image shows what its prompt asks for, by the released rules.

    Every clause of `include` must hold for the `count` most confident objects of its class: all of them of the colour,
    all of them in the relation to all objects of the clause referred to (which must itself hold). No class of
    `exclude` may have `count` objects or more.

    Args:
        metadata: the prompt.
        detections: as `strongest` leaves them.
        colour_of: asked only where a colour is wanted and there are enough objects.

    Returns:
        Right or not, and what is wrong, one line per clause; empty where all is right.
    """
    reasons: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for clause in metadata.include:
        objects = detections.get(clause.name, ())[: clause.count]
        wrong = _wrong(clause, objects, matched, colour_of)
        reasons += [wrong] if wrong else []
        matched.append(None if wrong else objects)
    for clause in metadata.exclude:
        count = len(detections.get(clause.name, ()))
        if count >= clause.count:
            reasons.append(f"expected {clause.name}<{clause.count}, found {count}")
    return not reasons, "\n".join(reasons)


def _wrong(
    clause: Clause, objects: Sequence[Detection], matched: Sequence[Sequence[Detection] | None], colour_of: ColourOf
) -> str:
    if len(objects) < clause.count:
        return f"expected {clause.name}>={clause.count}, found {len(objects)}"
    if clause.color is not None:
        colors = list(colour_of(clause.name, objects))
        right = colors.count(clause.color)
        if right < clause.count:
            seen = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
            return f"expected {clause.color} {clause.name}>={clause.count}, found {right} {clause.color}; and {seen}"
    if clause.position is not None:
        relation, index = clause.position
        targets = matched[index]
        if targets is None:
            return f"no target for {clause.name} to be {relation}"
        for one in objects:
            for target in targets:
                relations = relative_position(one.box, target.box)
                if relation not in relations:
                    return f"expected {clause.name} {relation} target, found {' and '.join(sorted(relations))} target"
    return ""


def relative_position(box: Sequence[float], target: Sequence[float]) -> set[str]:
    """Computes where a box lies relative to a target box.

    The offset between the centers is reduced by 0.1 times the sum of both widths (heights) and divided by its original
    length. A relation holds where the result exceeds 0.5.

    Args:
        box: left, top, right and bottom edge in pixels.
        target: the same for the box to compare with.

    Returns:
        At most two elements of `RELATIONS`.

    Source: evaluate_images.py of GenEval, `relative_position`.
    """
    import numpy as np

    a, b = (np.asarray(one, dtype=np.float64).reshape(2, 2) for one in (box, target))
    offset = a.mean(axis=0) - b.mean(axis=0)
    extents = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    beyond = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_THRESHOLD * extents, 0)
    if np.all(np.abs(beyond) < _NO_OFFSET):
        return set()
    dx, dy = beyond / np.linalg.norm(offset)
    holds = (dx < -_DIRECTION, dx > _DIRECTION, dy < -_DIRECTION, dy > _DIRECTION)
    return {relation for relation, true in zip(RELATIONS, holds, strict=True) if true}


def image_row(
    prompt: int, image: int, metadata: Metadata, detections: Detections, colour_of: ColourOf
) -> tuple[int, int, str, str, bool, str, str]:
    """Grade one image: a row of TABLE_COLUMNS.

    Args:
        prompt: number of the prompt in evaluation_metadata.jsonl, from 0.
        image: number of the image among those of its prompt, from 0.
        metadata: the prompt.
        detections: all that the detector found, whatever its score.
        colour_of: the colour classifier on this image.
    """
    objects = strongest(detections, metadata.confidence)
    right, reason = grade(metadata, objects, colour_of)
    boxes = {name: [[*one.box, one.score] for one in instances] for name, instances in sorted(objects.items())}
    return prompt, image, metadata.kind, metadata.prompt, right, reason, json.dumps(boxes)


@section
class GenEval:
    """GenEval: 553 prompts of six kinds, graded by an object detector and a CLIP model (see docs/geneval.md)."""

    prompts: str
    """The original's prompts/evaluation_metadata.jsonl (github.com/djghosh13/geneval)."""
    images: Positive = 4
    """Images per prompt (GenEval: 4)."""
    detector: str | Source
    """Mask2Former over COCO's objects (facebook/mask2former-swin-small-coco-instance): a folder or a source with
    configuration, processor and safetensors weights."""
    clip: str | Source
    """CLIP that tells colours (GenEval: openai/clip-vit-large-patch14); likewise."""


def prompt_id(number: int) -> str:
    """The number of a prompt in evaluation_metadata.jsonl, from 0, as GenEval's folders have it."""
    return f"{number:05d}"


def read_all(settings: GenEval, layout: Layout) -> Prompts:
    """Its prompts for generation."""
    lines = read_metadata(BENCHMARK.require_file(settings, "prompts"))
    ids = tuple(map(prompt_id, range(len(lines))))
    return Prompts(BENCHMARK.name, ids, tuple(one.prompt for one in lines), settings.images)


def grade_images(job: Job) -> Graded:
    """GenEval's verdict on every image."""
    import pandas as pd

    from hermesflow.evaluation.graders.canaries import try_clip, try_detector
    from hermesflow.evaluation.graders.geneval_detector import ColorClassifier, Detector
    from hermesflow.evaluation.graders.pretrained import PretrainedClip
    from hermesflow.evaluation.grading import Graded, grade_by_prompt
    from hermesflow.evaluation.worlds.generation import geneval_units

    classifier = ColorClassifier(job.tried(PretrainedClip(job.settings.clip, device=job.device), try_clip))
    detector = job.tried(Detector(job.settings.detector, device=job.device), try_detector)
    prompts = read_metadata(Path(job.settings.prompts))

    def verdicts(number: int, images: list[Image.Image]) -> pd.DataFrame:
        rows = []
        for k, image in enumerate(images):
            detections, colors = detector.detect(image), partial(classifier.colors, image)
            rows.append(image_row(number, k, prompts[number], detections, colors))
        return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))

    table = grade_by_prompt(job, verdicts)
    protocol = f"GenEval, {len(prompts):,} prompts x {job.prompts.images} images; the original's thresholds and rules"
    return Graded(table, geneval_units(table), protocol)


def write_metadata(settings: GenEval, prompts: Prompts, files: Sequence[Sequence[Path]], folder: Path) -> None:
    """Each prompt's line of evaluation_metadata.jsonl beside its folder of images, as evaluate_images.py reads it."""
    lines = [line for line in json_lines(Path(settings.prompts)) if line.strip()]
    for line, images in zip(lines, files, strict=True):
        (images[0].parents[1] / "metadata.jsonl").write_text(f"{line}\n", encoding="utf-8")


_COLOURED = 94 + 2 * 100
"""Kinds of objects whose colour GenEval asks for, over all prompts: one in `colors`, two in `color_attr`."""


def cost(plan: Plan) -> None:
    """The detector on every image, and CLIP on as many crops as may be graded."""
    plan.look(plan.settings.detector, plan.images)
    plan.look(plan.settings.clip, _COLOURED * plan.settings.images * MOST_OBJECTS)


BENCHMARK = ImageBenchmark(
    name="geneval",
    order=70,
    paper=True,
    section=GenEval,
    meaning="Table 2.",
    read_prompts=read_all,
    grade=grade_images,
    prompt_files={"prompts": "Take prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval"},
    models=("detector", "clip"),
    export=Export(folder="samples", write_index=write_metadata),
    columns={
        GENERATION: tuple(
            Column(kind, kind.replace("_", " ").capitalize(), f"geneval/{kind}", digits=2, quoted=kind)
            for kind in (*GENEVAL_KINDS, "overall")
        ),
        ABLATION: (Column("geneval", "GenEval", "geneval/overall", digits=3, quoted="geneval"),),
    },
    prompts=553,
    cost=cost,
)
"""Source of its size: Ghosh et al. 2023 (GenEval)."""
