"""Weights of a released model that are not whole must not be filled up with random numbers."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.graders.answer_probability import TransformersAnswerProbability
from hermesflow.evaluation.graders.geneval_detector import Detector
from hermesflow.evaluation.graders.pretrained import PretrainedClip
from hermesflow.evaluation.graders.vqa_judge import TransformersVqa
from tests.support.benchmark_models import save_blip, save_clip, save_detector, save_qwen3_vl, save_vilt

READERS = {
    "the object detector": (save_detector, Detector, "class_predictor.weight"),
    "the CLIP model": (save_clip, PretrainedClip, "visual_projection.weight"),
    "the VQA judge": (save_blip, TransformersVqa, "text_encoder.encoder.layer.0.attention.self.key.weight"),
    "the VQA model": (save_qwen3_vl, TransformersAnswerProbability, "lm_head.weight"),
}


def change(folder, of):
    """Write the tensors of a saved model again, as `of` gives them."""
    path = folder / "model.safetensors"
    save_file(of(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("role", READERS)
def test_a_tensor_that_is_not_there_is_named(tmp_path, role):
    save, reader, name = READERS[role]
    save(tmp_path)
    reader(str(tmp_path))
    change(tmp_path, lambda tensors: {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(ConfigError, match=rf"{tmp_path}: .*{role} .*1 tensors are not there, the first is .*\.weight"):
        reader(str(tmp_path))


def test_weights_of_another_size_are_refused(tmp_path):
    save_clip(tmp_path)
    change(tmp_path, lambda tensors: {**tensors, "visual_projection.weight": torch.zeros(3, 16)})
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read as the CLIP model"):
        PretrainedClip(str(tmp_path))


def test_a_truncated_file_is_named(tmp_path):
    path = save_clip(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read as the CLIP model.*each file whole"):
        PretrainedClip(str(tmp_path))


def test_a_detector_laid_out_as_the_released_one_is_read_and_sees_the_same(tmp_path):
    """Its file of 2022 has no last norm of the backbone, which is not used, but tables of indices made anew today."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    expected = Detector(str(save_detector(tmp_path))).detect(image)

    def as_released(tensors):
        tables = [key for key in tensors if key.endswith("relative_position_bias_table")]
        indices = {key.replace("bias_table", "index"): torch.zeros(4, 4, dtype=torch.int64) for key in tables}
        kept = {key: value for key, value in tensors.items() if "encoder.swin.layernorm" not in key}
        assert len(kept) == len(tensors) - 2 and tables
        return {**kept, **indices}

    change(tmp_path, as_released)
    found = Detector(str(tmp_path)).detect(image)
    assert [(one.box, one.score) for one in found["cat"]] == [(one.box, one.score) for one in expected["cat"]]


def test_parts_that_are_shared_are_not_missed(tmp_path):
    """A file holds a shared tensor once: BLIP's and ViLT's heads."""
    for save, name in ((save_blip, "blip"), (save_vilt, "vilt")):
        assert TransformersVqa(str(save(tmp_path / name))).answer(Image.new("RGB", (32, 32)), ["is there a cat?"])


def test_weights_that_give_no_numbers_are_refused(tmp_path):
    """No score of such a detector exceeds a threshold, and the first colour would be every object's."""
    image = Image.new("RGB", (32, 32))
    for folder, name in ((save_detector(tmp_path / "a"), "class_predictor"), (save_clip(tmp_path / "b"), "projection")):
        change(folder, lambda tensors, name=name: {k: v * (torch.nan if name in k else 1) for k, v in tensors.items()})
    with pytest.raises(ConfigError, match="the object detector returned values that are infinite or NaN"):
        Detector(str(tmp_path / "a")).detect(image)
    clip = PretrainedClip(str(tmp_path / "b"))
    for see in (lambda: clip.image_vectors([image]), lambda: clip.text_vectors(["a cat"])):
        with pytest.raises(ConfigError, match="the CLIP model returned values that are infinite or NaN"):
            see()
