import json
from dataclasses import replace

import pytest
import torch

from benchmark_models import save_qwen3_vl
from chat_server import picture
from hermesflow.errors import ConfigError, DataError, FetchError
from hermesflow.judging.local import LocalJudge
from hermesflow.judging.protocol import Item
from hermesflow.judging.settings import LocalVlm
from hermesflow.sections import Source
from tiny_vlm import make_llava

ASKED = ("what color is it ?", ("red", "blue"), "red")
ON_RED = Item("a", picture((255, 0, 0)), *ASKED)
ON_BLUE = Item("b", picture((0, 0, 255)), *ASKED)
OF_BLUE = Item("b", "rather blue", *ASKED)
LESSONS = {ON_RED: '{"choice": "red"}', ON_BLUE: '{"choice": "blue"}', OF_BLUE: '{"choice": "cannot tell"}'}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llava(tmp_path_factory.mktemp("vlm"), LESSONS, steps=150)


def judge(folder, **own):
    return LocalJudge(LocalVlm(kind="local", model=str(folder), dtype="float32", **own), device="cpu")


def test_images_and_texts_reach_the_model(folder):
    verdicts = judge(folder).judge([ON_BLUE, ON_RED, OF_BLUE])
    assert [(v.id, v.outcome, v.choice) for v in verdicts] == [
        ("b", "chosen", "blue"),
        ("a", "chosen", "red"),
        ("b", "cannot tell", None),
    ]


def test_answers_are_greedy_and_alone(folder):
    one = judge(folder)
    torch.manual_seed(1)
    together = one.judge([ON_RED, ON_BLUE, OF_BLUE])
    torch.manual_seed(2)
    assert [one.judge([item])[0] for item in (ON_RED, ON_BLUE, OF_BLUE)] == together


def test_an_answer_that_was_cut_is_unreadable(folder):
    (verdict,) = judge(folder, max_new_tokens=1).judge([ON_RED])
    assert (verdict.outcome, verdict.text) == ("unreadable", '{"choice":')


def test_an_untrained_model_gets_verdicts_too(tmp_path):
    one = judge(make_llava(tmp_path, LESSONS), max_new_tokens=4)
    (verdict,) = one.judge([ON_RED])
    assert verdict.outcome == "unreadable"
    assert one.name == str(tmp_path)


def test_weights_have_the_number_type_asked_for(folder):
    settings = LocalVlm(kind="local", model=str(folder), dtype="bfloat16", max_new_tokens=8)
    assert LocalJudge(settings, device="cpu").judge([ON_RED])[0].choice == "red"


def test_a_source_is_checked_before_it_is_read(folder):
    source = Source(folder=str(folder), files={"model.safetensors": "0" * 64})
    with pytest.raises(FetchError, match="the config pins"):
        LocalJudge(LocalVlm(kind="local", model=source), device="cpu")
    source = Source(folder=str(folder), files={"model.safetensors": None})
    assert LocalJudge(LocalVlm(kind="local", model=source), device="cpu").name == str(folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read as the judge \(benchmarks.gap.judge.model\)"):
        judge(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    make_llava(tmp_path, LESSONS)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        judge(tmp_path)


def test_a_model_without_a_chat_template_is_named(tmp_path):
    with pytest.raises(ConfigError, match="chat template"):
        judge(make_llava(tmp_path, LESSONS, chat=False))


def test_a_model_that_also_sees_videos_needs_no_torchvision(tmp_path):
    assert judge(save_qwen3_vl(tmp_path)).judge([ON_RED])[0].id == ON_RED.id


def test_a_broken_image_names_its_pair(folder):
    with pytest.raises(DataError, match=r"pair a.*decoded"):
        judge(folder).judge([replace(ON_RED, evidence=ON_RED.evidence[:60])])
