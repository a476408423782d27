"""Processes that are killed, or two at once, and what they leave on disk and in logs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from tests.support.chat_server import ChatServer, error, picture

RED = picture((255, 0, 0))


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


PROGRAM = textwrap.dedent(
    """
    import json, logging, sys
    from pydantic import TypeAdapter
    from hermesflow.evaluation.judges.endpoint import EndpointJudge
    from hermesflow.evaluation.judges.protocol import Item
    from hermesflow.config.judges import Endpoint

    logging.basicConfig(level=logging.DEBUG)
    settings = TypeAdapter(Endpoint).validate_json(sys.argv[1])
    image = bytes.fromhex(sys.argv[2])
    items = [Item(str(n), image, f"what color is object {n} ?", ("red", "blue"), "red") for n in range(6)]
    print([verdict.choice for verdict in EndpointJudge(settings).judge(items)])
    """
)
KILLED_WITHIN_THE_THIRD_LINE = textwrap.dedent(
    """
    import os, signal
    from hermesflow.evaluation.judges.store import AnswerStore

    add, calls = AnswerStore.add, []

    def killed(self, key, reply):
        calls.append(key)
        if len(calls) == 3:
            self._file.write('\\n{"key": "' + key + '", "reply": {"text": "{')
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, key, reply)

    AnswerStore.add = killed
    """
)


def started(settings, *, before="", **environment):
    plain = TypeAdapter(type(settings)).dump_json(settings).decode()
    command = [sys.executable, "-c", before + PROGRAM, plain, RED.hex()]
    outside = {**os.environ, "NO_PROXY": "127.0.0.1", **environment}
    return subprocess.Popen(command, env=outside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_run_goes_on_without_paying_twice(server, tmp_path):
    own = server.settings(tmp_path / "cache")
    server.stall_at = 4
    with started(own) as process:
        assert server.stalled.wait(30)
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(server.paid) == 3
    with started(own) as process:
        said = process.communicate(timeout=30)[0]
    assert str(["red"] * 6) in said
    assert len(server.paid) == len(set(server.paid)) == 6
    assert len(server.requests) == 3 + 1 + 3  # the fourth was under way


def test_a_kill_within_a_line_costs_that_answer_alone(server, tmp_path):
    own = server.settings(tmp_path / "cache")
    with started(own, before=KILLED_WITHIN_THE_THIRD_LINE) as process:
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert len(server.paid) == 3
    for _ in range(2):
        with started(own) as process:
            said = process.communicate(timeout=30)[0]
        assert str(["red"] * 6) in said
    assert len(server.paid) == 7 and len(set(server.paid)) == 6


def test_two_processes_do_not_pay_for_the_same(server, tmp_path):
    own = server.settings(tmp_path / "cache", pace={"timeout": 60.0})
    server.stall_at = 4
    with started(own) as first:
        assert server.stalled.wait(30)
        with started(own) as second:
            waits = next((line for line in second.stdout if "another process asks" in line), None)
            server.release()
            said = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert waits
    assert all(str(["red"] * 6) in text for text in said)
    assert len(server.paid) == len(set(server.paid)) == 6


def test_the_key_is_in_no_log_and_in_no_file(tmp_path):
    key = "sk-proj-0123456789abcdef"
    with ChatServer(key=key) as server:
        own = server.settings(tmp_path / "cache", key_variable="JUDGE_KEY")
        server.accident(500, {}, error(f"failed for {key}"))
        server.accident(200, {}, key.encode())
        with started(own, JUDGE_KEY=key) as process:
            good = process.communicate(timeout=30)[0]
        server.accident(429, {}, error(f"{key} is out of credit", "insufficient_quota"))
        own = replace(own, cache=str(tmp_path / "other"))
        with started(own, JUDGE_KEY=key) as process:
            broke = process.communicate(timeout=30)[0]
        with started(own, JUDGE_KEY=key + "0") as process:
            unknown = process.communicate(timeout=30)[0]
    assert str(["red"] * 6) in good
    assert "DEBUG" in good  # libraries have logged what they log
    assert "(key) is out of credit" in broke
    assert "does not know the key" in unknown
    assert key not in good + broke + unknown
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(json.loads(line)["reply"] for path in kept for line in path.read_text().split("\n") if line)
    assert not any(key in path.read_text() for path in kept)
