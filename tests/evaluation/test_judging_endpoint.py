import base64
import concurrent.futures
import errno
from dataclasses import replace

import pytest

from hermesflow.config.judges import Prices
from hermesflow.core.errors import DataError, JudgeError
from hermesflow.evaluation.judges.chat import Stopped
from hermesflow.evaluation.judges.cost import estimate
from hermesflow.evaluation.judges.endpoint import EndpointJudge, body_of, key_of
from hermesflow.evaluation.judges.instructions import OF_IMAGE
from hermesflow.evaluation.judges.protocol import Item
from tests.support.chat_server import MODEL, ChatServer, error, numbered, picture

RED, BLUE = picture((255, 0, 0)), picture((0, 0, 255))
ON_RED = Item("a", RED, "what color is it ?", ("red", "blue"), "red")
ON_BLUE = Item("b", BLUE, "what color is it ?", ("red", "blue"), "red")
OF_BLUE = Item("b", "rather blue", "what color is it ?", ("red", "blue"), "red")


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


def test_verdicts_come_in_the_order_of_the_items(server, tmp_path):
    items = [ON_BLUE, OF_BLUE, ON_RED, replace(ON_RED, id="c", choices=("green", "blue"), answer="green")]
    judge = EndpointJudge(server.settings(tmp_path, pace={"concurrency": 3}))
    verdicts = judge.judge(items)
    assert [(v.id, v.outcome, v.choice) for v in verdicts] == [
        ("b", "chosen", "blue"),
        ("b", "chosen", "blue"),
        ("a", "chosen", "red"),
        ("c", "cannot tell", None),
    ]
    assert (judge.name, judge.models) == ("gpt-4o", (MODEL,))


def test_the_request_is_what_the_protocol_wants(server, tmp_path):
    EndpointJudge(server.settings(tmp_path, seed=3, max_tokens=40, detail="high")).judge([ON_RED])
    body = server.requests[0].body
    assert {key: value for key, value in body.items() if key != "messages"} == {
        "model": "gpt-4o", "temperature": 0.0, "seed": 3, "max_tokens": 40,
    }  # fmt: skip
    system, user = body["messages"]
    assert system == {"role": "system", "content": OF_IMAGE}
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]
    image = user["content"][1]["image_url"]
    assert image == {"url": "data:image/png;base64," + base64.b64encode(RED).decode(), "detail": "high"}


def test_a_text_is_asked_about_without_an_image(server, tmp_path):
    (verdict,) = EndpointJudge(server.settings(tmp_path)).judge([OF_BLUE])
    assert verdict.choice == "blue"
    assert len(server.requests[0].body["messages"][1]["content"]) == 1


def test_a_refusal_is_a_verdict_and_is_not_paid_for_twice(server, tmp_path):
    server.message = lambda body: {"role": "assistant", "content": None, "refusal": "I can't."}
    for _ in range(2):
        (verdict,) = EndpointJudge(server.settings(tmp_path)).judge([ON_RED])
        assert (verdict.outcome, verdict.choice, verdict.text) == ("refused", None, "I can't.")
    assert len(server.requests) == 1


def test_words_without_a_choice_are_a_verdict(server, tmp_path):
    server.message = lambda body: {"role": "assistant", "content": "It is a nice picture."}
    (verdict,) = EndpointJudge(server.settings(tmp_path)).judge([ON_RED])
    assert (verdict.outcome, verdict.choice) == ("unreadable", None)


def test_equal_questions_are_asked_once(server, tmp_path):
    verdicts = EndpointJudge(server.settings(tmp_path)).judge([ON_RED, replace(ON_RED, id="z", answer="blue")])
    assert [v.id for v in verdicts] == ["a", "z"]
    assert len(server.requests) == 1


def test_what_was_asked_once_needs_neither_server_nor_key(server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    own = server.settings(tmp_path, key_variable="JUDGE_KEY")
    before = EndpointJudge(own).judge([ON_RED, ON_BLUE])
    monkeypatch.delenv("JUDGE_KEY")
    assert EndpointJudge(own).judge([ON_RED, ON_BLUE]) == before
    assert len(server.requests) == 2


def test_no_more_requests_under_way_than_allowed(server, tmp_path):
    server.pause = 0.05
    EndpointJudge(server.settings(tmp_path, pace={"concurrency": 3})).judge(numbered(9))
    assert 2 <= server.most_under_way <= 3


def test_after_a_final_error_nothing_is_begun_and_answers_are_kept(server, tmp_path):
    own = server.settings(tmp_path)
    EndpointJudge(own).judge(numbered(2))
    server.accident(403, {}, error("no access"))
    with pytest.raises(JudgeError, match="no access"):
        EndpointJudge(own).judge(numbered(8))
    assert len(server.requests) == 3
    EndpointJudge(own).judge(numbered(8))
    assert len(server.paid) == len(set(server.paid)) == 8


def test_the_error_of_one_thread_ends_the_others_and_is_told(server, tmp_path):
    server.pause = 0.1
    server.accident(401, {}, error("who are you"))
    with pytest.raises(JudgeError, match="401"):
        EndpointJudge(server.settings(tmp_path, pace={"concurrency": 3})).judge(numbered(30))
    assert len(server.requests) <= 6
    assert len(server.paid) == len(server.requests) - 1  # what was under way is kept, as the next run shows
    EndpointJudge(server.settings(tmp_path)).judge(numbered(30))
    assert len(server.paid) == len(set(server.paid)) == 30


def test_the_reason_is_told_whichever_thread_ends_first(server, tmp_path, monkeypatch):
    def stopped_first(futures):
        done = concurrent.futures.wait(futures).done
        return sorted(done, key=lambda future: not isinstance(future.exception(), Stopped))

    monkeypatch.setattr("hermesflow.evaluation.judges.endpoint.as_completed", stopped_first)
    server.accident(401, {}, error("who are you"))
    with pytest.raises(JudgeError, match="401"):
        EndpointJudge(server.settings(tmp_path)).judge(numbered(3))
    assert len(server.requests) == 1


def test_a_broken_item_is_found_before_anything_is_paid_for(server, tmp_path):
    with pytest.raises(DataError, match="pair b"):
        EndpointJudge(server.settings(tmp_path)).judge([ON_RED, replace(ON_BLUE, evidence=b"GIF89a")])
    assert server.requests == []


@pytest.mark.parametrize(
    "other",
    [
        {"evidence": BLUE},
        {"evidence": "red"},
        {"question": "which color is it ?"},
        {"choices": ("blue", "red")},
    ],
)
def test_the_key_of_an_answer_depends_on_what_is_asked(server, tmp_path, other):
    own = server.settings(tmp_path)
    assert key_of(replace(ON_RED, **other), own) != key_of(ON_RED, own)
    assert key_of(replace(ON_RED, id="z", answer="blue"), own) == key_of(ON_RED, own)


@pytest.mark.parametrize("other", [{"model": "gpt-4o-mini"}, {"seed": 1}, {"max_tokens": 9}, {"detail": "low"}])
def test_the_key_of_an_answer_depends_on_how_it_is_asked(server, tmp_path, other):
    assert key_of(ON_RED, server.settings(tmp_path, **other)) != key_of(ON_RED, server.settings(tmp_path))


def test_the_key_of_an_answer_depends_on_who_is_asked(server, tmp_path):
    own = server.settings(tmp_path)
    assert key_of(ON_RED, replace(own, base_url="http://127.0.0.1:1/v1")) != key_of(ON_RED, own)
    assert key_of(ON_RED, replace(own, base_url=own.base_url + "/")) == key_of(ON_RED, own)


def test_how_an_endpoint_is_asked_is_no_part_of_the_key(server, tmp_path):
    own = server.settings(tmp_path)
    other = server.settings(tmp_path / "other", key_variable="JUDGE_KEY", max_cost=1.0, pace={"attempts": 1})
    assert key_of(ON_RED, other) == key_of(ON_RED, own)


def test_new_instructions_ask_anew(server, tmp_path, monkeypatch):
    own = server.settings(tmp_path)
    before = key_of(ON_RED, own)
    monkeypatch.setattr("hermesflow.evaluation.judges.instructions.OF_IMAGE", "Be kind.")
    assert key_of(ON_RED, own) != before
    assert body_of(ON_RED, own)["messages"][0]["content"] == "Be kind."


def test_a_disk_that_is_full_stops_the_paying(server, tmp_path, monkeypatch):
    def full(self, key, reply):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hermesflow.evaluation.judges.store.AnswerStore.add", full)
    with pytest.raises(OSError, match="No space left"):
        EndpointJudge(server.settings(tmp_path)).judge(numbered(8))
    assert len(server.paid) == 1


def test_the_price_is_told_before_and_after(server, tmp_path, capsys):
    own = replace(server.settings(tmp_path, max_tokens=60), prices=Prices(input=2500, output=10_000, image_tokens=255))
    EndpointJudge(own).judge(numbered(1))
    capsys.readouterr()
    bill = estimate(numbered(5)[1:], own.prices, max_tokens=60)
    assert (bill.answers, bill.completion_tokens) == (4, 240)
    EndpointJudge(own).judge(numbered(5))
    before, *_, after = capsys.readouterr().err.splitlines()
    assert "1 of 5 questions are answered" in before
    assert f"4 to ask, estimated {bill.prompt_tokens:,} tokens in, at most 240 out, {bill.dollars:.2f} US" in before
    # each answer: 200 * 2500 / 1e6 + 10 * 10,000 / 1e6 = 0.60
    assert "5 answers cost 3.00 US dollars in all, 1,000 tokens in and 50 out; 2.40 of it in this run" in after


def test_the_estimate_is_told_before_anything_is_asked(server, tmp_path, capsys):
    told = []

    def see_what_was_told(body):
        told.append(capsys.readouterr().err)
        return {"role": "assistant", "content": "red"}

    server.message = see_what_was_told
    EndpointJudge(server.settings(tmp_path)).judge([ON_RED])
    assert "1 to ask, estimated" in told[0]


def test_a_filter_is_no_model_that_answered(server, tmp_path):
    server.accident(400, {}, error("filtered", "content_filter"))
    judge = EndpointJudge(server.settings(tmp_path))
    verdicts = judge.judge(numbered(2))
    assert [v.outcome for v in verdicts] == ["refused", "chosen"]
    assert judge.models == (MODEL,)


def test_answers_that_were_cut_short_are_wrong_and_told(server, tmp_path, capsys):
    server.finish_reason = "length"
    server.message = lambda body: {"role": "assistant", "content": "red"}  # it may have gone on: or blue
    for _ in range(2):
        (verdict,) = EndpointJudge(server.settings(tmp_path)).judge([ON_RED])
        assert (verdict.outcome, verdict.choice) == ("cut short", None)
        assert "1 of 1 answers were cut" in capsys.readouterr().err
    assert len(server.requests) == 1
    server.finish_reason = "stop"
    (verdict,) = EndpointJudge(server.settings(tmp_path, max_tokens=99)).judge([ON_RED])
    assert verdict.choice == "red"
    assert "were cut" not in capsys.readouterr().err
