"""What GenEval sees with: Mask2Former for objects and CLIP for their colours, through transformers alone.

The released evaluation runs Mask2Former (Swin-S, COCO instances) of mmdet 2; the released weights here are those of
its authors for the same network (facebook/mask2former-swin-small-coco-instance). What is done with the network's
output, which decides scores and boxes, is the published instance inference, as mmdet has it: transformers' own
post-processing works on 384 x 384 masks and rounds scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hermesflow.config.sections import Source
from hermesflow.core.errors import ConfigError
from hermesflow.data.geneval import COLORS, OBJECTS
from hermesflow.evaluation.graders.geneval_objects import Detection
from hermesflow.evaluation.graders.pretrained import PretrainedClip, finite, read_pretrained

OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}
"""What COCO, or the detector's own labels, call an object that GenEval names otherwise."""
SHORTER_SIDE, LONGER_SIDE = 800, 1333
"""Pixels the detector sees an image at, as in mmdet's configuration."""
MOST_DETECTIONS = 100
"""Pairs of a mask and a class that are looked at in an image, as in mmdet's configuration."""
BACKGROUND = "#999999"
"""Colour of what is not the object in the crops that CLIP sees."""
_ROLE = "the object detector"
COLOR_PROMPTS = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


class Detector:
    """Mask2Former over GenEval's 80 objects.

    Raises:
        ConfigError: it cannot be read, or does not know GenEval's objects.
        FetchError: a source cannot be had.
    """

    def __init__(self, source: str | Source, *, device: str = "cpu") -> None:
        kind = "Mask2FormerForUniversalSegmentation"
        self._model = read_pretrained(kind, source, role=_ROLE, use_safetensors=True).to(device).eval()
        size = {"shortest_edge": SHORTER_SIDE, "longest_edge": LONGER_SIDE}
        self._processor = self.image_processor = read_pretrained(
            "AutoImageProcessor", source, role=_ROLE, backend="pil", size=size
        )
        self.names = object_names(self._model.config.id2label)

    @torch.inference_mode()
    def detect(self, image: Image.Image) -> dict[str, list[Detection]]:
        """All objects found in an image, whatever their score (at most 100), by GenEval's class name.

        Raises:
            ConfigError: the network gives values that are no numbers.
        """
        batch = self._processor(image.convert("RGB"), return_tensors="pt").to(self._model.device)
        seen = self._model(pixel_values=batch["pixel_values"], pixel_mask=batch["pixel_mask"])
        classes, masks = (
            finite(one.float(), role=_ROLE) for one in (seen.class_queries_logits, seen.masks_queries_logits)
        )
        for size in (tuple(batch["pixel_values"].shape[-2:]), (image.height, image.width)):
            masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return instances(classes[0], masks[0], self.names)


def object_names(labels: Mapping[int, str]) -> list[str]:
    """GenEval's name of each of a detector's classes.

    Args:
        labels: `id2label` of the detector.

    Raises:
        ConfigError: they are not the 80 objects of COCO.
    """
    names = [OTHER_NAMES.get(labels[i], labels[i]) for i in sorted(labels)]
    if sorted(names) != sorted(OBJECTS):
        strange, missing = sorted(set(names) - set(OBJECTS)), sorted(set(OBJECTS) - set(names))
        raise ConfigError(
            f"the object detector does not know GenEval's 80 objects: {missing[:5]} are missing, {strange[:5]} are "
            "strange. Name a model for COCO instances (facebook/mask2former-swin-small-coco-instance)."
        )
    return names


def instances(class_logits: Tensor, mask_logits: Tensor, names: Sequence[str]) -> dict[str, list[Detection]]:
    """Objects from the output of one image.

    The 100 likeliest pairs of a query and a class are taken; a pair's score is its class probability times the mean
    of the mask's probabilities where they exceed one half. The box is the one around these pixels.

    Args:
        class_logits: (Q, C + 1), the last class being "nothing".
        mask_logits: (Q, H, W) at the size of the image.
        names: C class names.

    Returns:
        Objects by class name; a mask without pixels is left out.

    Source: Cheng et al. 2022 (Mask2Former), instance inference of the released code and of mmdet.
    """
    chances = class_logits.softmax(dim=-1)[:, :-1]
    best, places = chances.flatten().topk(min(MOST_DETECTIONS, chances.numel()))
    detections: dict[str, list[Detection]] = {}
    for chance, place in zip(best.tolist(), places.tolist(), strict=True):
        query, label = divmod(place, len(names))
        logits = mask_logits[query]
        mask = logits > 0
        if not mask.any():
            continue
        score = chance * float(logits[mask].sigmoid().mean())
        detections.setdefault(names[label], []).append(Detection(_box(mask), score, mask.cpu().numpy()))
    return detections


def _box(mask: Tensor) -> tuple[float, float, float, float]:
    """Left, top, right and bottom around True pixels; right and bottom are one beyond the last."""
    (rows,), (columns,) = (mask.any(dim=axis).nonzero(as_tuple=True) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class ColorClassifier:
    """CLIP's choice among GenEval's ten colours for the objects of an image."""

    def __init__(self, clip: PretrainedClip) -> None:
        self._clip = clip
        self._directions: dict[str, Tensor] = {}

    def colors(self, image: Image.Image, name: str, objects: Sequence[Detection]) -> list[str]:
        """The likeliest colour of each object.

        Args:
            image: the whole image.
            name: class of the objects; it stands in the prompts.
            objects: N >= 1 detections.
        """
        vectors = self._clip.image_vectors([crop(image, one) for one in objects])
        return [COLORS[best] for best in (vectors @ self._directions_of(name).T).argmax(dim=1).tolist()]

    def _directions_of(self, name: str) -> Tensor:
        """(10, D) unit vectors: per colour the mean of its prompts' unit vectors."""
        if name not in self._directions:
            texts = [prompt.format(color=color, name=name) for color in COLORS for prompt in COLOR_PROMPTS]
            vectors = self._clip.text_vectors(texts).unflatten(0, (len(COLORS), len(COLOR_PROMPTS)))
            self._directions[name] = F.normalize(vectors.mean(dim=1), dim=-1)
        return self._directions[name]


def crop(image: Image.Image, detection: Detection) -> Image.Image:
    """The object alone: grey where the mask is not, cut to its box."""
    whole = image.convert("RGB")
    if detection.mask is not None:
        blank = Image.new("RGB", whole.size, color=BACKGROUND)
        whole = Image.composite(whole, blank, Image.fromarray(np.ascontiguousarray(detection.mask)))
    left, top, right, bottom = (round(edge) for edge in detection.box)
    return whole.crop((left, top, right, bottom))
