import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from hermesflow.core.errors import JudgeError
from hermesflow.evaluation.judges.chat import Chat, Stopped
from tests.support.chat_server import MODEL, ChatServer, completion, error

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": "- red\nred"}]}]}
KEY = "sk-proj-0123456789abcdef"
GOOD = json.dumps(completion({"role": "assistant", "content": "x"})).encode()


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return KEY


def asked(settings):
    with Chat(settings) as chat:
        return chat.complete(BODY)


def waits(server):
    moments = [one.at for one in server.requests]
    return [later - earlier for earlier, later in pairwise(moments)]


def test_an_answer_as_the_protocol_has_it(server, tmp_path):
    reply = asked(server.settings(tmp_path))
    assert (reply.text, reply.refused, reply.model) == ('{"choice": "red"}', False, MODEL)
    assert (reply.prompt_tokens, reply.completion_tokens) == (200, 10)
    assert server.requests[0].path == "/v1/chat/completions"
    assert server.requests[0].authorization is None


def test_the_key_goes_into_the_header(tmp_path, key):
    with ChatServer(key=key) as server:
        assert asked(server.settings(tmp_path, key_variable="JUDGE_KEY")).text
        assert server.requests[0].authorization == f"Bearer {key}"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_may_pass_is_repeated(server, tmp_path, status):
    server.accident(status, body=error("busy"), times=2)
    assert asked(server.settings(tmp_path)).text
    assert len(server.requests) == 3


def test_retry_after_in_seconds_is_kept(server, tmp_path):
    server.accident(429, {"Retry-After": "0.4"}, error("Rate limit reached", "rate_limit_exceeded"))
    asked(server.settings(tmp_path))
    assert 0.4 <= waits(server)[0] < 1.5


def test_retry_after_as_a_date_is_kept(server, tmp_path):
    until = datetime.now(UTC) + timedelta(seconds=2)  # dates have whole seconds: one at least is left
    server.accident(503, {"Retry-After": format_datetime(until, usegmt=True)})
    asked(server.settings(tmp_path))
    assert 0.9 <= waits(server)[0] < 3


def test_retry_after_holds_all_threads(server, tmp_path):
    server.accident(429, {"Retry-After": "0.5"})
    with Chat(server.settings(tmp_path)) as chat:
        first = threading.Thread(target=chat.complete, args=(BODY,))
        first.start()
        time.sleep(0.2)
        chat.complete(BODY)
        first.join()
    assert len(server.requests) == 3
    assert waits(server)[0] >= 0.5


def test_a_wait_longer_than_allowed_ends_the_run(server, tmp_path):
    server.accident(429, {"Retry-After": "3600"}, error("come back later"))
    with pytest.raises(JudgeError, match=r"come back later.*3600 s.*judge.pace.longest_wait"):
        asked(server.settings(tmp_path))
    assert len(server.requests) == 1


def test_waits_grow_at_random(server, tmp_path, monkeypatch):
    windows = []
    monkeypatch.setattr("random.uniform", lambda low, high: windows.append((low, high)) or 0.0)
    server.accident(500, times=5)
    asked(server.settings(tmp_path, pace={"first_wait": 0.02, "longest_wait": 0.1}))
    assert windows == [(0, 0.02), (0, 0.04), (0, 0.08), (0, 0.1), (0, 0.1)]


def test_an_account_without_credit_is_not_asked_again(server, tmp_path):
    server.accident(429, {}, error("You exceeded your current quota", "insufficient_quota"))
    with pytest.raises(JudgeError, match=r"current quota.*credit"):
        asked(server.settings(tmp_path))
    assert len(server.requests) == 1


def test_a_timeout_is_repeated(server, tmp_path):
    server.stall_at = 1
    assert asked(server.settings(tmp_path, pace={"timeout": 0.2})).text
    assert len(server.requests) == 2


def test_silence_is_told(server, tmp_path):
    server.stall_at = 1
    with pytest.raises(JudgeError, match=r"nothing came within 0.2 s"):
        asked(server.settings(tmp_path, pace={"timeout": 0.2, "attempts": 1}))


@pytest.mark.parametrize(
    "body",
    [
        GOOD[:50],
        b"<html>Bad gateway</html>",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": ["x"]}}]}',
        error("Upstream overloaded"),  # some proxies say so with HTTP 200
        b"\xff\xfe",
    ],
)
def test_a_malformed_answer_is_repeated(server, tmp_path, body):
    server.accident(200, {}, body)
    assert asked(server.settings(tmp_path)).text == '{"choice": "red"}'
    assert len(server.requests) == 2


@pytest.mark.parametrize("sent", [0, 50])
def test_a_connection_that_is_cut_within_an_answer_is_opened_again(server, tmp_path, sent):
    server.accident(200, {}, GOOD[:sent], missing=len(GOOD) - sent)
    assert asked(server.settings(tmp_path)).text == '{"choice": "red"}'
    assert len(server.requests) == 2


def test_a_cut_connection_is_told(server, tmp_path):
    server.accident(200, {}, GOOD[:50], missing=9)
    with pytest.raises(JudgeError, match=r"1 requests.*RemoteProtocolError"):
        asked(server.settings(tmp_path, pace={"attempts": 1}))


def test_a_model_that_broke_off_is_asked_again(server, tmp_path):
    answer = completion({"role": "assistant", "content": ""}, finish_reason="error")  # OpenRouter says it so
    server.accident(200, {}, json.dumps(answer).encode())
    assert asked(server.settings(tmp_path)).text
    assert len(server.requests) == 2


@pytest.mark.parametrize(("reason", "cut"), [("length", True), ("stop", False)])
def test_an_answer_that_used_up_its_tokens_says_so(server, tmp_path, reason, cut):
    server.finish_reason = reason
    assert asked(server.settings(tmp_path)).cut == cut


def test_an_endpoint_that_never_answers_is_given_up(server, tmp_path):
    server.accident(500, {}, error("The server had an error"), times=3)
    with pytest.raises(JudgeError, match=r"3 requests.*HTTP 500: The server had an error.*judge.base_url"):
        asked(server.settings(tmp_path, pace={"attempts": 3}))
    assert len(server.requests) == 3


def test_no_connection_is_named(server, tmp_path):
    own = server.settings(tmp_path, base_url="http://127.0.0.1:1/v1", pace={"attempts": 2})
    with pytest.raises(JudgeError, match=r"2 requests.*ConnectError.*judge.base_url"):
        asked(own)


def test_an_unknown_key_is_named_by_its_variable(tmp_path, key):
    with ChatServer(key="another") as server, pytest.raises(JudgeError, match=r"401.*JUDGE_KEY") as caught:
        asked(server.settings(tmp_path, key_variable="JUDGE_KEY"))
    assert key not in str(caught.value)  # the server says it back
    assert len(server.requests) == 1


def test_a_key_that_is_wanted_and_not_named(tmp_path):
    with ChatServer(key="k") as server, pytest.raises(JudgeError, match=r"wants a key.*judge.key_variable"):
        asked(server.settings(tmp_path))


def test_a_key_without_access_names_what_to_mend(server, tmp_path, key):
    server.accident(403, {}, error(f"Project of {key} does not have access to model"))
    with pytest.raises(JudgeError, match=r"\(key\) does not have access.*JUDGE_KEY.*judge.model") as caught:
        asked(server.settings(tmp_path, key_variable="JUDGE_KEY"))
    assert key not in str(caught.value)
    assert len(server.requests) == 1


def test_no_such_model_or_address_names_both(server, tmp_path):
    own = server.settings(tmp_path, base_url=server.base_url.removesuffix("/v1"))
    with pytest.raises(JudgeError, match=r"404.*judge.model: gpt-4o.*judge.base_url.*/v1"):
        asked(own)
    assert len(server.requests) == 1


def test_the_key_does_not_follow_to_another_address(server, tmp_path, key):
    with ChatServer() as other:
        server.accident(308, {"Location": f"{other.base_url}/chat/completions"})
        with pytest.raises(JudgeError, match=r"HTTP 308.*judge.base_url"):
            asked(server.settings(tmp_path, key_variable="JUDGE_KEY"))
        assert other.requests == []
    assert len(server.requests) == 1


def test_other_complaints_are_quoted(server, tmp_path):
    server.accident(400, {}, error("Unsupported parameter: 'max_tokens'", "unsupported_parameter"))
    with pytest.raises(JudgeError, match=r"Unsupported parameter: 'max_tokens'"):
        asked(server.settings(tmp_path))
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_filter_before_the_model_is_a_refusal(server, tmp_path, code):
    server.accident(400, {}, error("The response was filtered", code))
    reply = asked(server.settings(tmp_path))
    assert (reply.refused, reply.text, reply.model) == (True, "The response was filtered", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_a_filter_after_the_model_is_a_refusal(server, tmp_path):
    server.finish_reason = "content_filter"
    server.message = lambda body: {"role": "assistant", "content": None}
    assert asked(server.settings(tmp_path)).refused


def test_a_refusal_field_is_a_refusal(server, tmp_path):
    server.message = lambda body: {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    reply = asked(server.settings(tmp_path))
    assert (reply.refused, reply.text) == (True, "I can't help with that.")


def test_an_endpoint_that_reports_no_tokens(server, tmp_path):
    answer = {"choices": [{"message": {"role": "assistant", "content": "x"}}]}
    server.accident(200, {}, json.dumps(answer).encode())
    reply = asked(server.settings(tmp_path))
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("gpt-4o", None, None)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (None, (None, None, 0)),
        ([], (None, None, 0)),
        ("many", (None, None, 0)),
        ({"prompt_tokens": "200", "completion_tokens": -1}, (None, None, 0)),
        ({"prompt_tokens": 200, "completion_tokens": 10}, (200, 10, 0)),
        ({"prompt_tokens": 200, "completion_tokens": 10, "prompt_tokens_details": None}, (200, 10, 0)),
        ({"prompt_tokens": 99, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}, (99, 9, 64)),
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 128}}, (9, 1, 9)),
    ],
)  # fmt: skip
def test_what_is_said_of_tokens_never_costs_an_answer(server, tmp_path, usage, tokens):
    server.usage = usage
    reply = asked(server.settings(tmp_path))
    assert reply.text == '{"choice": "red"}'
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == tokens
    assert len(server.requests) == 1


def test_a_key_in_an_answer_is_not_kept(server, tmp_path, key):
    server.message = lambda body: {"role": "assistant", "content": f"{key} is red"}
    assert asked(server.settings(tmp_path, key_variable="JUDGE_KEY")).text == "(key) is red"


def test_requests_begin_no_faster_than_the_limit(server, tmp_path):
    with Chat(server.settings(tmp_path, pace={"requests_per_minute": 600.0})) as chat:  # one each 0.1 s
        threads = [threading.Thread(target=chat.complete, args=(BODY,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    moments = sorted(one.at for one in server.requests)
    assert moments[-1] - moments[0] > 0.35


def test_stopping_ends_all_waits(server, tmp_path):
    server.accident(429, {"Retry-After": "60"})
    with Chat(server.settings(tmp_path)) as chat:
        threading.Timer(0.3, chat.stop).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            chat.complete(BODY)
    assert time.monotonic() - began < 5
    assert len(server.requests) == 1


def test_stopping_ends_the_wait_before_a_repeat(server, tmp_path, monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server.accident(500)
    with Chat(server.settings(tmp_path, pace={"first_wait": 60.0})) as chat:
        threading.Timer(0.3, chat.stop).start()
        began = time.monotonic()
        with pytest.raises(Stopped):
            chat.complete(BODY)
    assert time.monotonic() - began < 5
    assert len(server.requests) == 1
