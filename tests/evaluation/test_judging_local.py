import hashlib
import json
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hermesflow.config.judges import LocalVlm
from hermesflow.config.sections import Source
from hermesflow.core.errors import ConfigError, DataError, FetchError
from hermesflow.evaluation.graders.pretrained import digest_of
from hermesflow.evaluation.judges.local import LocalJudge
from hermesflow.evaluation.judges.protocol import Item
from hermesflow.evaluation.judges.store import AnswerStore
from tests.support.benchmark_models import save_qwen3_vl
from tests.support.chat_server import picture
from tests.support.tiny_vlm import make_llava

ASKED = ("what color is it ?", ("red", "blue"), "red")
ON_RED = Item("a", picture((255, 0, 0)), *ASKED)
ON_BLUE = Item("b", picture((0, 0, 255)), *ASKED)
OF_BLUE = Item("b", "rather blue", *ASKED)
LESSONS = {ON_RED: '{"choice": "red"}', ON_BLUE: '{"choice": "blue"}', OF_BLUE: '{"choice": "cannot tell"}'}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llava(tmp_path_factory.mktemp("vlm"), LESSONS, steps=150)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def judge(folder, cache, **own):
    settings = LocalVlm(kind="local", model=str(folder), cache=str(cache), **{"dtype": "float32", **own})
    return LocalJudge(settings, device="cpu")


def counted(one):
    """The texts that a judge's model is asked from now on, in a list that grows."""
    asked, generate = [], one._model.generate

    def count(content, **options):
        asked.append(content[-1]["text"])
        return generate(content, **options)

    one._model.generate = count
    return asked


def test_images_and_texts_reach_the_model(folder, cache):
    verdicts = judge(folder, cache).judge([ON_BLUE, ON_RED, OF_BLUE])
    assert [(v.id, v.outcome, v.choice) for v in verdicts] == [
        ("b", "chosen", "blue"),
        ("a", "chosen", "red"),
        ("b", "cannot tell", None),
    ]


def test_answers_are_greedy_and_alone(folder, tmp_path):
    torch.manual_seed(1)
    together = judge(folder, tmp_path / "first").judge([ON_RED, ON_BLUE, OF_BLUE])
    torch.manual_seed(2)
    one = judge(folder, tmp_path / "second")
    asked = counted(one)
    assert [one.judge([item])[0] for item in (ON_RED, ON_BLUE, OF_BLUE)] == together
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("tokens", "outcome", "text"),
    [(1, "cut short", '{"choice":'), (2, "chosen", '{"choice": "red"}'), (3, "chosen", '{"choice": "red"}')],
)
def test_an_answer_that_was_cut_counts_if_it_is_whole(folder, cache, tokens, outcome, text):
    (verdict,) = judge(folder, cache, max_new_tokens=tokens).judge([ON_RED])
    assert (verdict.outcome, verdict.text) == (outcome, text)


@pytest.mark.parametrize(("tokens", "cut"), [(3, True), (4, False)])
def test_an_answer_whose_end_is_the_last_token_allowed_was_not_cut(folder, cache, tokens, cut):
    judge(folder, cache, max_new_tokens=tokens).judge([ON_RED])  # {"choice":, "red"}, a blank and the end
    assert [reply.cut for reply in AnswerStore(cache).read().values()] == [cut]


def test_answers_that_were_cut_short_are_told(folder, cache, capsys):
    judge(folder, cache, max_new_tokens=1).judge([ON_RED, ON_BLUE])
    assert "2 of 2 answers were cut" in (told := capsys.readouterr().err) and "judge.max_new_tokens" in told


def test_an_interrupted_run_goes_on_with_what_is_missing(folder, cache):
    one = judge(folder, cache)
    generate, asked = one._model.generate, []

    def interrupted(content, **options):
        asked.append(content)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return generate(content, **options)

    one._model.generate = interrupted
    with pytest.raises(KeyboardInterrupt):
        one.judge([ON_RED, ON_BLUE, OF_BLUE])
    again = judge(folder, cache)
    more = counted(again)
    verdicts = again.judge([ON_RED, ON_BLUE, OF_BLUE])
    assert [(v.id, v.choice) for v in verdicts] == [("a", "red"), ("b", "blue"), ("b", None)]
    assert len(more) == 1 and "rather blue" in more[0]
    assert again.judge([ON_RED, ON_BLUE, OF_BLUE]) == verdicts
    assert len(more) == 1


PROGRAM = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from hermesflow.evaluation.graders.pretrained import ChatModel
    from hermesflow.evaluation.judges.local import LocalJudge
    from hermesflow.evaluation.judges.protocol import Item
    from hermesflow.config.judges import LocalVlm

    folder, cache, image, calls, last = *map(Path, sys.argv[1:5]), int(sys.argv[5])
    generate = ChatModel.generate

    def counted(self, *arguments, **options):
        with calls.open("a") as file:
            file.write("x")
        if calls.stat().st_size == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(self, *arguments, **options)

    ChatModel.generate = counted
    judge = LocalJudge(LocalVlm(kind="local", model=str(folder), cache=str(cache), max_new_tokens=2), device="cpu")
    items = [Item(str(n), image.read_bytes(), f"is it {n} ?", ("red", "blue"), "red") for n in range(5)]
    print(len(judge.judge(items)))
    """
)


def test_a_killed_run_goes_on_without_asking_twice(tmp_path, folder, cache):
    (tmp_path / "image.png").write_bytes(ON_RED.evidence)
    command = [sys.executable, "-c", PROGRAM, folder, cache, tmp_path / "image.png", tmp_path / "calls"]
    killed = subprocess.run([*command, "4"], capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "calls").read_text() == "x" * 4
    done = subprocess.run([*command, "0"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "5\n", done.stderr
    assert (tmp_path / "calls").read_text() == "x" * (4 + 2)  # the fourth was under way


def test_equal_questions_are_asked_once(folder, cache):
    one = judge(folder, cache)
    asked = counted(one)
    assert [v.id for v in one.judge([ON_RED, replace(ON_RED, id="z", answer="blue")])] == ["a", "z"]
    assert len(asked) == 1


@pytest.mark.parametrize(
    "other",
    [{"evidence": ON_BLUE.evidence}, {"evidence": "red"}, {"question": "why ?"}, {"choices": ("blue", "red")}],
)
def test_the_key_of_an_answer_depends_on_what_is_asked(folder, cache, other):
    one = judge(folder, cache)
    assert one.key_of(replace(ON_RED, **other)) != one.key_of(ON_RED)
    assert one.key_of(replace(ON_RED, id="z", answer="blue")) == one.key_of(ON_RED)


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"max_new_tokens": 9}])
def test_the_key_of_an_answer_depends_on_how_it_is_asked(folder, cache, other):
    assert judge(folder, cache, **other).key_of(ON_RED) != judge(folder, cache).key_of(ON_RED)


def test_the_key_of_an_answer_depends_on_the_weights_and_not_on_their_place(tmp_path, folder, cache):
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert judge(moved, cache).key_of(ON_RED) == judge(folder, cache).key_of(ON_RED)
    weights = load_file(moved / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, moved / "model.safetensors", metadata={"format": "pt"})
    assert judge(moved, cache).key_of(ON_RED) != judge(folder, cache).key_of(ON_RED)


def test_digest_of_a_source_by_its_files_or_its_revision(tmp_path):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "a.json").write_text("1")
    before = digest_of(str(folder))
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("")
    assert digest_of(str(folder)) == before
    pin = hashlib.sha256(b"1").hexdigest()
    assert digest_of(Source(folder=str(folder), files={"part/a.json": pin})) == before
    (folder / "generation_config.json").write_text("{}")  # not among `files`, but it is read
    assert digest_of(Source(folder=str(folder), files={"part/a.json": pin})) == digest_of(str(folder)) != before
    hub = Source(repo="owner/model", revision="0" * 40, files={"part/a.json": pin})
    assert digest_of(hub) != digest_of(replace(hub, revision="1" * 40))


def test_an_untrained_model_gets_verdicts_too(tmp_path):
    one = judge(make_llava(tmp_path, LESSONS), tmp_path / "cache", max_new_tokens=4)
    (verdict,) = one.judge([ON_RED])
    assert (verdict.outcome, verdict.choice) == ("cut short", None)
    assert one.name == str(tmp_path)


def test_weights_have_the_number_type_asked_for(folder, cache):
    assert judge(folder, cache, dtype="bfloat16", max_new_tokens=8).judge([ON_RED])[0].choice == "red"


def test_a_source_is_checked_before_it_is_read(folder, cache):
    source = Source(folder=str(folder), files={"model.safetensors": "0" * 64})
    with pytest.raises(FetchError, match="the config pins"):
        LocalJudge(LocalVlm(kind="local", model=source, cache=str(cache)), device="cpu")
    source = Source(folder=str(folder), files={"model.safetensors": None})
    assert LocalJudge(LocalVlm(kind="local", model=source, cache=str(cache)), device="cpu").name == str(folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match=rf"{tmp_path}: cannot be read as the judge \(benchmarks.gap.judge.model\)"):
        judge(tmp_path, tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    make_llava(tmp_path, LESSONS)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        judge(tmp_path, tmp_path)


def test_a_model_without_a_chat_template_is_named(tmp_path):
    with pytest.raises(ConfigError, match="chat template"):
        judge(make_llava(tmp_path, LESSONS, chat=False), tmp_path)


def test_a_model_that_also_sees_videos_needs_no_torchvision(tmp_path):
    assert judge(save_qwen3_vl(tmp_path), tmp_path / "cache").judge([ON_RED])[0].id == ON_RED.id


def test_a_broken_image_names_its_pair(folder, cache):
    with pytest.raises(DataError, match=r"pair a.*decoded"):
        judge(folder, cache).judge([replace(ON_RED, evidence=ON_RED.evidence[:60])])
