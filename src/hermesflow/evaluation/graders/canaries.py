"""Pictures whose verdict is known, shown to graders before they grade.

A grader whose weights, image processor or labels are broken sees nothing, and its zeros look like results. What is
asked here every working model of its kind answers rightly: whether a portrait shows a person, and which of three plain
colours a picture has. The portrait comes with matplotlib: Grace Hopper, by the US Navy, public domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from PIL import Image

from hermesflow.core.errors import ConfigError

if TYPE_CHECKING:
    from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability
    from hermesflow.evaluation.graders.geneval_detector import Detector
    from hermesflow.evaluation.graders.pretrained import PretrainedClip
    from hermesflow.evaluation.graders.vqa_judge import VqaJudge

COLORS = ("red", "green", "blue")
_SIDE = 256
_PRESENT, _ABSENT = "Is there a person in the picture?", "Is there an elephant in the picture?"
_CONTRAST = (0.9, 6.0)
"""What white exceeds black by for a model: 1 without normalisation, 2 with means of 0.5, 3.7 for CLIP's, 4.4 for
ImageNet's; hundreds where nothing divides by 255, and next to nothing where two do."""


def photograph() -> Image.Image:
    """A portrait, 512 x 600."""
    from matplotlib.cbook import get_sample_data

    with Image.open(str(get_sample_data("grace_hopper.jpg", asfileobj=False))) as image:
        return image.convert("RGB")


def plain(color: str) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (_SIDE, _SIDE), color)


def try_detector(detector: Detector) -> None:
    """A person in the right half of a picture must be found there.

    Raises:
        ConfigError: nobody is.
    """
    role = "the object detector (benchmarks.geneval.detector)"
    _try_processor(role, detector.image_processor)
    photo = photograph()
    picture = Image.new("RGB", (2 * photo.width, photo.height), "gray")
    picture.paste(photo, (photo.width, 0))
    detections = detector.detect(picture)
    nobody = (0.0, (0.0, 0.0, 0.0, 0.0))
    score, box = max(((one.score, one.box) for one in detections.get("person", ())), default=nobody)
    if score < 0.5 or not 0.9 * photo.width < box[0] < box[2]:
        scores = sorted(((one.score, name) for name, objects in detections.items() for one in objects), reverse=True)
        surest = ", ".join(f"{name} {chance:.2f}" for chance, name in scores[:3]) or "nothing"
        stop(role, f"a person right of x = {photo.width}", f"one of score {score:.2f} at {box}; surest are {surest}")


def try_clip(clip: PretrainedClip) -> None:
    """The photograph and the plain colours must each be nearest to their own text.

    Raises:
        ConfigError: one is not.
    """
    role = "the CLIP model (`clip` of the benchmark's section)"
    _try_processor(role, clip.image_processor)
    images = {"a portrait of a person in uniform": photograph(), **{f"a plain {c} picture": plain(c) for c in COLORS}}
    texts = list(images)
    cosines = clip.image_vectors(list(images.values())) @ clip.text_vectors(texts).T
    for text, best in zip(texts, cosines.argmax(dim=1).tolist(), strict=True):
        if texts[best] != text:
            stop(role, f"`{text}` as the nearest text", f"`{texts[best]}`")


def try_vqa(judge: VqaJudge) -> None:
    """A judge of yes-or-no questions must see who is on the photograph, and nobody else.

    Raises:
        ConfigError: it does not.
    """
    role = "the VQA judge (benchmarks.dpg.judge)"
    _try_processor(role, judge.image_processor)
    answers = [answer.strip().lower() for answer in judge.answer(photograph(), [_PRESENT, _ABSENT])]
    if [answer.startswith("yes") for answer in answers] != [True, False]:
        stop(role, f"yes to {_PRESENT!r} and no to {_ABSENT!r} of a portrait", " and ".join(map(repr, answers)))


def try_answer_probability(judge: TransformersAnswerProbability) -> None:
    """Likewise a judge whose probabilities count.

    Raises:
        ConfigError: it does not.
    """
    role = "the VQA model (`judge` of the benchmark's section)"
    _try_processor(role, judge.image_processor)
    forms, photo = ("Yes", "yes", " Yes", " yes"), photograph()
    present, absent = (judge.probability(photo, f"{text} Answer in one word.", forms) for text in (_PRESENT, _ABSENT))
    if not absent < 0.5 < present:
        wanted = f"yes above one half to {_PRESENT!r} and below to {_ABSENT!r} of a portrait"
        stop(role, wanted, f"{present:.3f} and {absent:.3f}")


def _try_processor(role: str, processor: Any) -> None:
    """Whether an image processor gives a model numbers of the size that models are trained on."""
    black, white = (
        processor(images=[plain(color)], return_tensors="np")["pixel_values"].astype(float)
        for color in ("black", "white")
    )
    contrast = float(np.median(white - black))
    if not _CONTRAST[0] <= contrast <= _CONTRAST[1]:
        response = f"{contrast:.3g} (do_rescale, rescale_factor, do_normalize, image_std in preprocessor_config.json)"
        stop(role, "between {} and {} as what white exceeds black by".format(*_CONTRAST), response)


def stop(role: str, wanted: str, response: str) -> NoReturn:
    """Say that a grader is broken.

    Args:
        role: the grader, and the key of the config that names it.
        wanted: what every working one gives.
        response: what this one gave.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"{role} does not see what is there: of pictures whose verdict is known it should give {wanted}, and gave "
        f"{response}. What it grades would look like a result and be none. Check that its files are all of one release "
        "(`hermesflow fetch` compares checksums), its preprocessor_config.json and labels among them, and try it with "
        "runtime.device: cpu. To grade with it all the same, write the reason into benchmarks.untried: it will stand "
        "under the tables."
    )
