"""Graders are shown pictures whose verdict is known: working ones pass, each kind of broken one is told."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hermesflow.core.errors import ConfigError
from hermesflow.core.files import read_json
from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability
from hermesflow.evaluation.graders.canaries import (
    COLORS,
    photograph,
    plain,
    try_answer_probability,
    try_clip,
    try_detector,
    try_vqa,
)
from hermesflow.evaluation.graders.geneval_detector import Detector
from hermesflow.evaluation.graders.geneval_objects import Detection
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from hermesflow.evaluation.graders.vqa_judge import vqa_judge
from hermesflow.evaluation.judges.canary import try_judge
from hermesflow.evaluation.judges.endpoint import EndpointJudge
from hermesflow.evaluation.judges.protocol import Verdict
from hermesflow.report.facts import benchmark_lines
from hermesflow.stages import grade
from tests.support.benchmark_models import save_blip, save_clip, save_detector, save_qwen3_vl
from tests.support.benchmark_world import UNTRIED, draw_all, make_world, yes_man
from tests.support.chat_server import ChatServer, first_choice


def is_portrait(image):
    """Whether an image, of whatever size, is the portrait or has it in its right half."""
    right = image.crop((image.width // 2, 0, image.width, image.height)) if image.width > image.height else image
    small = np.asarray(right.resize((32, 38)), dtype=float)
    own = np.asarray(photograph().resize((32, 38)), dtype=float)
    return np.abs(small - own).mean() < 20


class Sees:
    """A grader of each kind that sees what is there, through eyes that may be broken."""

    def __init__(self, eye=lambda image: image, name="person", side=1, processor=None):
        self.eye, self.name, self.side = eye, name, side
        self.image_processor = processor or CLIPImageProcessorPil()

    def detect(self, image):
        seen = self.eye(image)
        box = (seen.width / 2, 0.0, float(seen.width), float(seen.height)) if self.side else (0.0, 0.0, 9.0, 9.0)
        return {self.name: [Detection(box, 0.97)]} if is_portrait(seen) else {}

    def image_vectors(self, images):
        return torch.stack([self._vector(self.eye(image)) for image in images])

    def text_vectors(self, texts):
        return torch.stack([self._vector(photograph() if "person" in t else plain(t.split()[2])) for t in texts])

    def _vector(self, image):
        pixels = np.asarray(image.convert("RGB"), dtype=float)
        flat = [*(pixels.mean(axis=(0, 1)) / 255 - 0.3), pixels.std(axis=(0, 1)).mean() / 100]
        return torch.nn.functional.normalize(torch.tensor(flat), dim=0)

    def answer(self, image, questions):
        return ["Yes." if "person" in question and is_portrait(self.eye(image)) else "no" for question in questions]

    def probability(self, image, question, answers):
        return 0.9 if "person" in question and is_portrait(self.eye(image)) else 0.1

    def judge(self, items):
        return [Verdict(item.id, "chosen", self._choice(item), "text") for item in items]

    def _choice(self, item):
        if isinstance(item.evidence, str):
            return next(choice for choice in item.choices if choice in item.evidence)
        with Image.open(io.BytesIO(item.evidence)) as image:
            means = np.asarray(self.eye(image), dtype=float).mean(axis=(0, 1))
        return COLORS[int(means.argmax())]


TRIALS = {
    "detector": (try_detector, "the object detector (benchmarks.geneval.detector)"),
    "clip": (try_clip, "the CLIP model (`clip` of the benchmark's section)"),
    "vqa": (try_vqa, "the VQA judge (benchmarks.dpg.judge)"),
    "probability": (try_answer_probability, "the VQA model (`judge` of the benchmark's section)"),
    "judge": (try_judge, "the judge (benchmarks.gap.judge)"),
}
BLANK = {"eye": lambda image: Image.new("RGB", image.size)}
NEGATIVE = {"eye": lambda image: ImageOps.invert(image.convert("RGB"))}
SWAPPED = {"eye": lambda image: Image.merge("RGB", image.convert("RGB").split()[::-1])}


@pytest.mark.parametrize("kind", TRIALS)
def test_a_grader_that_sees_passes(kind):
    TRIALS[kind][0](Sees())


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in TRIALS for fault in (BLANK, NEGATIVE)),
        *((kind, SWAPPED) for kind in ("clip", "judge")),
        ("detector", {"name": "bicycle"}),  # labels shifted by one
        ("detector", {"side": 0}),  # boxes of another scale
    ],
)
def test_a_broken_grader_is_told_with_its_key_and_what_to_check(kind, fault):
    canary, role = TRIALS[kind]
    with pytest.raises(ConfigError, match=re.escape(role) + r" does not see.* Check that .*benchmarks\.untried"):
        canary(Sees(**fault))


@pytest.mark.parametrize("kind", [kind for kind in TRIALS if kind != "judge"])
@pytest.mark.parametrize("fault", [{"do_rescale": False}, {"rescale_factor": 255.0**-2}, {"image_std": [12, 12, 12]}])
def test_pixels_of_another_scale_are_told(kind, fault):
    with pytest.raises(ConfigError, match=r"white exceeds black by.*preprocessor_config\.json"):
        TRIALS[kind][0](Sees(processor=CLIPImageProcessorPil(**fault)))


def test_random_weights_and_models_that_always_say_the_same_are_told(tmp_path):
    """Models of the true classes, read as released ones are."""
    made = {
        try_detector: Detector(str(save_detector(tmp_path / "detector"))),
        try_clip: PretrainedClip(str(save_clip(tmp_path / "clip"))),
        try_answer_probability: TransformersAnswerProbability(str(save_qwen3_vl(tmp_path / "qwen"))),
    }
    for canary, grader in made.items():
        with pytest.raises(ConfigError, match="does not see what is there"):
            canary(grader)
    for judge in (yes_man(tmp_path / "vilt"), save_blip(tmp_path / "blip"), save_qwen3_vl(tmp_path / "qwen2")):
        with pytest.raises(ConfigError, match=r"the VQA judge .* of a portrait, and gave "):
            try_vqa(vqa_judge(str(judge)))


def test_an_endpoint_that_takes_the_first_choice_is_told(tmp_path):
    with ChatServer() as server:
        server.message = first_choice
        with pytest.raises(ConfigError, match=r"the judge .* green for a plain green picture, and gave chosen"):
            try_judge(EndpointJudge(server.settings(tmp_path)))
        assert len(server.paid) == 4


def test_grading_stops_before_it_begins_and_a_reason_not_to_try_stands_under_the_table(tmp_path):
    config, layout = make_world(tmp_path)
    folder = draw_all(config, layout, "dpg")
    tried = replace(config, benchmarks=replace(config.benchmarks, untried=None))
    with pytest.raises(ConfigError, match="the VQA judge"):
        grade.run(tried, layout, seed=0, checkpoint="base", benchmark="dpg")
    assert not (folder / "facts.json").exists() and not list(folder.glob("graded-*"))
    grade.run(config, layout, seed=0, checkpoint="base", benchmark="dpg")
    assert read_json(folder / "facts.json")["models not tried on known pictures"] == UNTRIED
    assert f"models not tried on known pictures {UNTRIED}" in benchmark_lines({"base": {0: [folder]}})["dpg"]
