"""Frechet distance to real COCO images and CLIP score of images generated from a fixed list of their captions.

Protocol: one image for each caption of the list (30,000 of val2014), at the resolution the model generates. How images
are scaled, seen and scored is in `graders.fidelity`; the statistics of the real ones in `graders.reference_origin` and
`graders.fid_reference` (docs/dpg-and-coco.md).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermesflow.config.sections import Source, section
from hermesflow.core.errors import DataError
from hermesflow.core.tables import csv_rows
from hermesflow.evaluation.benchmark import FIDELITY, Column, ImageBenchmark, Note, Plan
from hermesflow.evaluation.prompts import Prompts, decoded

if TYPE_CHECKING:
    import pandas as pd

    from hermesflow.core.files import Layout
    from hermesflow.evaluation.graders.fidelity import Caption
    from hermesflow.evaluation.grading import Graded, Job

IMAGES = 30_000
"""Images of the protocol that papers call COCO-30K."""
KEYS = {"image_id": ("cocoid", "img_id", "uid", "file_name", "filename"), "caption": ("prompt", "text")}
"""What is read of a list, with other names that lists have for it; `id` is none: COCO's is of the caption."""
_IMAGE = re.compile(
    r"(?P<number>\d{1,12})|(?P<first>\d{1,12})_mscoco_\d+|(.*[/\\])?(COCO_)?(\w+_)?(?P<last>\d{12})\.\w+", re.ASCII
)
_TOGETHER = 32  # captions whose images are decoded and scored together


def read_captions(path: Path) -> list[Caption]:
    """Read the list of captions, in order of the image ids; see `read_list`."""
    return read_list(path)[0]


def read_list(path: Path) -> tuple[list[Caption], dict[str, str]]:
    """Read the list of captions, in order of the image ids, and which column was taken for which of KEYS.

    Args:
        path: `.csv` or `.tsv` whose first line names the columns, `.json` with a list of objects, or `.jsonl`; one of
            KEYS each for the caption and for the image it is about, whatever the letter case. An image is a number,
            COCO's file name (`COCO_val2014_000000000042.jpg`) or `42_mscoco_0`.

    Raises:
        DataError: unreadable, no such columns or several for one thing, a record of another form, an image that has
            two captions, or fewer than two images.
    """
    from hermesflow.evaluation.graders.fidelity import Caption

    captions: dict[int, Caption] = {}
    columns: dict[str, str] = {}
    for number, row in enumerate(_records(path), start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, record {number}: is {str(row)[:80]!r}, not an object of image_id and caption.")
        columns = columns or _columns(path, row)
        key, text = (row.get(columns[name]) for name in KEYS)
        image_id = _image_id(key)
        if image_id is None or not isinstance(text, str) or not text.strip() or None in row:
            raise DataError(
                f"{path}, record {number}: {columns['image_id']} is {key!r} and {columns['caption']} {text!r}; needed "
                "are a whole number, or a name with it, and a text that is not empty, and in a CSV no more fields than "
                f"the first line names columns (beyond: {row.get(None, [])}). Correct the record; a caption with a "
                "comma stands in quotes."
            )
        if image_id in captions:
            raise DataError(
                f"{path}, record {number}: image {image_id} has a caption already. One image is drawn for each "
                "real one, so keep one caption of each; COCO's own annotation file has five."
            )
        captions[image_id] = Caption(image_id, text.strip())
    if len(captions) < 2:  # one image has no covariance
        raise DataError(f"{path}: holds captions of {len(captions)} images. Name the list of 30,000 of val2014.")
    return [captions[image_id] for image_id in sorted(captions)], columns


def _columns(path: Path, row: Mapping[Any, Any]) -> dict[str, str]:
    """The column of each of KEYS: that of its own name, or the only one of another name that lists go by."""
    names = [name for name in row if isinstance(name, str)]
    columns: dict[str, str] = {}
    for key, spellings in KEYS.items():
        candidates = [name for name in names if name.strip().lower() == key]
        candidates = candidates or [name for name in names if name.strip().lower() in spellings]
        if len(candidates) != 1:
            what = f"{' and '.join(candidates)} may each be" if candidates else "no column is"
            raise DataError(
                f"{path}: has the columns {', '.join(map(repr, names))}; {what} {key}. Rename the column that is "
                f"{key} to that ({', '.join(spellings)} will do where there is one of them alone)."
            )
        columns[key] = candidates[0]
    return columns


def _image_id(key: object) -> int | None:
    """COCO's number of an image, of the number itself or a name that holds it; None: no such name."""
    whole = isinstance(key, int) and not isinstance(key, bool) and key >= 0
    match = _IMAGE.fullmatch(str(key).strip()) if whole or isinstance(key, str) else None
    return int(match["number"] or match["first"] or match["last"]) if match else None


def _records(path: Path) -> list[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                rows: Any = [decoded(line) for line in file if line.strip()]
            elif path.suffix.lower() == ".json":
                rows = decoded(file.read())
            else:
                rows = list(csv_rows(file))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}). Name a CSV or JSON file of image_id and caption."
        ) from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: expected a list of objects with image_id and caption, got {type(rows).__name__}. "
            "docs/dpg-and-coco.md shows how to make one from COCO's annotations."
        )
    return rows


def fidelity_units(captions: Sequence[Caption], scores: Sequence[float]) -> pd.DataFrame:
    """The bootstrap's units: one row per caption, with its image's CLIP score.

    Args:
        captions: in order of their ids, as `read_captions` gives them; rows of features go in this order too.
        scores: one per caption.

    Raises:
        DataError: another order, in which features would be paired with the wrong prompts.
    """
    from hermesflow.evaluation.worlds import generation

    keys = [caption.key for caption in captions]
    if keys != sorted(set(keys)):
        raise DataError("captions are not in order of different image ids. Keep the order of `read_captions`.")
    return generation.fidelity_units(keys, scores)


@section
class Coco:
    """Frechet distance to COCO's images and CLIP score, one image for each caption of a fixed list."""

    captions: str
    """CSV or JSON list of image_id and caption, one caption for each image (30,000 of val2014); columns of other names
    that are in use (prompt, text, uid, file_name) are taken too."""
    reference: str
    """npz with `mu` and `sigma` of the real images of the list, scaled as docs/dpg-and-coco.md says."""
    inception: Source
    """Inception of 2015: one file, pytorch-fid's pt_inception-2015-12-05-6726825d.pth or its tensors as safetensors."""
    clip: str | Source
    """CLIP of the score: a folder or a source; scores of different ones cannot be compared."""


def read_all(settings: Coco, layout: Layout) -> Prompts:
    """Its captions as prompts; the reference is looked at now, and not after 30,000 images are generated."""
    from hermesflow.evaluation.graders.reference_origin import check_reference

    captions = read_captions(BENCHMARK.require_file(settings, "captions"))
    check_reference(BENCHMARK.require_file(settings, "reference"), captions, settings.inception)
    return Prompts(BENCHMARK.name, tuple(one.key for one in captions), tuple(one.caption for one in captions), 1)


def grade_images(job: Job) -> Graded:
    """Frechet distance of all images, with a bootstrap over captions, and CLIP score of each."""
    import numpy as np
    import pandas as pd

    from hermesflow.core.progress import Progress
    from hermesflow.evaluation.bootstrap import FIDELITY_POOL, resample_counts
    from hermesflow.evaluation.graders import fidelity
    from hermesflow.evaluation.graders.canaries import try_clip
    from hermesflow.evaluation.graders.inception import load_inception
    from hermesflow.evaluation.graders.pretrained import PretrainedClip
    from hermesflow.evaluation.graders.reference_origin import check_reference
    from hermesflow.evaluation.grading import Graded, grade_in_parts

    settings, device, resamples = job.settings, job.device, job.config.evaluation.bootstrap
    captions, columns = read_list(Path(settings.captions))
    reference = fidelity.read_reference(BENCHMARK.require_file(settings, "reference"))
    extractor = load_inception(settings.inception, device=device)
    clip = job.tried(PretrainedClip(settings.clip, device=device), try_clip)

    def scored(start: int, stop: int) -> pd.DataFrame:
        images, part = list(job.images.pixels(start, stop)), captions[start:stop]
        features = fidelity.features(extractor, images, device=device)
        scores = fidelity.clip_scores(clip, images, [one.caption for one in part])
        job.progress.advance(len(images))
        return pd.DataFrame({"clip_score": scores, "features": list(features)})

    table, size = grade_in_parts(job, scored, together=_TOGETHER), job.images.pixels(0, 1).shape[1:3]
    scores = table["clip_score"].to_numpy()
    rows = {"id": [one.key for one in captions], "caption": [one.caption for one in captions], "clip_score": scores}
    other = "" if len(captions) == IMAGES else f" (COCO-30K has {IMAGES:,})"
    protocol = (
        f"one image of {size[0]} x {size[1]} pixels for each of {len(captions):,} captions{other}; FID: antialiased "
        "bicubic to 299 x 299 in float (clean-fid); CLIP score: 100 max(cosine, 0), captions cut to 77 tokens"
    )
    counts = resample_counts(FIDELITY_POOL, len(captions), resamples=resamples)  # as the CLIP score is resampled
    progress = Progress(resamples, f"{job.progress.what}: bootstrap of the Frechet distance", "resample")
    features = np.stack(table["features"].tolist())
    fid = fidelity.distance_of(features, reference, counts, device=device, advance=progress.advance)
    notes: dict[str, Any] = {} if list(columns.values()) == list(KEYS) else {"columns": columns}
    if cut := sum(clip.is_cut([one.caption for one in captions])):
        notes["captions that CLIP cut"] = cut
    origin = check_reference(Path(settings.reference), captions, settings.inception)
    return Graded(
        pd.DataFrame(rows),
        fidelity_units(captions, scores.tolist()),
        protocol,
        values={"fid": fid},
        notes=notes,
        scorers={"reference": origin},
    )


_FEATURES = 2048
"""Inception's, whose covariance each resample of the Frechet distance makes anew."""


def cost(plan: Plan) -> None:
    """CLIP on images and captions, Inception on images, and a covariance of all features for each resample."""
    plan.look(plan.settings.clip, plan.images)
    plan.read(plan.settings.clip, plan.images)
    plan.look("inception-2015", plan.images)
    resamples = plan.config.evaluation.bootstrap
    plan.compute(resamples, flops=2 * plan.images * _FEATURES**2, read=8 * plan.images * _FEATURES)


BENCHMARK = ImageBenchmark(
    name="coco",
    order=90,
    paper=True,
    section=Coco,
    meaning="Table 3.",
    read_prompts=read_all,
    grade=grade_images,
    prompt_files={
        "captions": "Write image_id and one caption of 30,000 images of val2014 as CSV (docs/dpg-and-coco.md)"
    },
    grading_files={
        "reference": "Make it of the list's real images by `hermesflow fid-reference` (docs/dpg-and-coco.md)"
    },
    models=("inception", "clip"),
    config_keys=("evaluation.bootstrap",),
    sharded=True,
    columns={
        FIDELITY: (
            Column("fid", "COCO-30K FID", "fid", digits=2, quoted="fid"),
            Column("clip_score", "CLIP score", "clip_score", digits=2, quoted="clip_score"),
        ),
    },
    notes=(
        Note(
            FIDELITY,
            "Lower is better for FID alone. The paper's 9.24 for Show-o is not reached from the released weights (its "
            "author says so; a user measured 26.2), and it does not name its CLIP.",
        ),
        Note(
            FIDELITY,
            "FID's intervals resample drawn images and keep the reference; they are shifted to the value itself, "
            "because repeats make the distance of a resample larger.",
            metric="fid",
        ),
    ),
    prompts=IMAGES,
    cost=cost,
)
