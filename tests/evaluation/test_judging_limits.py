"""What a judge may cost, and what is found before anything is paid for."""

from dataclasses import replace

import pytest

from hermesflow.config.judges import Prices
from hermesflow.core.errors import ConfigError, JudgeError
from hermesflow.evaluation.judges.endpoint import EndpointJudge
from tests.support.chat_server import ChatServer, numbered, picture

RED = picture((255, 0, 0))


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


DEAR = Prices(input=0, output=100_000, image_tokens=255)
"""An answer is estimated at 10 tokens x 0.1 = 1 dollar with max_tokens 10, and costs that much."""


def limited(server, tmp_path, limit, **own):
    return replace(server.settings(tmp_path, max_tokens=10, max_cost=limit, **own), prices=DEAR)


def test_nothing_is_asked_beyond_the_limit(server, tmp_path):
    with pytest.raises(JudgeError, match=r"3 more are estimated at 3\.0000: .*judge\.max_cost \(2\.99\)"):
        EndpointJudge(limited(server, tmp_path, 2.99)).judge(numbered(3))
    assert server.requests == []


def test_a_limit_counts_what_earlier_runs_have_paid(server, tmp_path):
    EndpointJudge(limited(server, tmp_path, 3.0)).judge(numbered(3))
    assert len(server.paid) == 3
    with pytest.raises(JudgeError, match=r"the 3 answers in .* cost 3\.0000 .* 1 more are estimated at 1\.0000"):
        EndpointJudge(limited(server, tmp_path, 3.5)).judge(numbered(4))
    EndpointJudge(limited(server, tmp_path, 0.0)).judge(numbered(3))  # nothing is missing
    assert len(server.paid) == 3
    EndpointJudge(limited(server, tmp_path, 4.0)).judge(numbered(4))
    assert len(server.paid) == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_answers_that_cost_more_than_estimated_end_at_the_limit(server, tmp_path, concurrency):
    server.usage = {"prompt_tokens": 0, "completion_tokens": 30}  # 3 dollars each
    server.pause = 0.05
    own = limited(server, tmp_path, 10.0, pace={"concurrency": concurrency})
    with pytest.raises(JudgeError, match=r"max_cost \(10\)"):
        EndpointJudge(own).judge(numbered(9))
    # one by one: after 3 + 3 + 3 another one at 1 has room, and the limit is passed once at most by an answer under way
    assert len(server.paid) == 4 if concurrency == 1 else 4 <= len(server.paid) <= 7
    kept = len(server.paid)
    EndpointJudge(limited(server, tmp_path, 99.0)).judge(numbered(9))
    assert len(server.paid) == len(set(server.paid)) == 9
    assert kept < 9


def test_answers_without_tokens_count_as_estimated(server, tmp_path):
    server.usage = None
    budget = limited(server, tmp_path, 3.0)
    EndpointJudge(budget).judge(numbered(3))
    assert len(server.paid) == 3


def test_what_would_keep_from_asking_is_found_without_asking(server, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    EndpointJudge(server.settings(tmp_path)).judge(numbered(1))
    keyless = EndpointJudge(server.settings(tmp_path, key_variable="JUDGE_KEY"))
    keyless.check(numbered(1))  # its answer is there
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        keyless.check(numbered(2))
    with pytest.raises(JudgeError, match="max_cost"):
        EndpointJudge(limited(server, tmp_path, 1.9)).check(numbered(2)[1:])
    EndpointJudge(limited(server, tmp_path, 2.0)).check(numbered(2)[1:])
    assert len(server.requests) == 1
