"""Keys and addresses of an endpoint that are none, and that no error repeats."""

import pytest

from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.judges.chat import Chat
from tests.support.chat_server import ChatServer

KEY = "sk-proj-0123456789abcdef"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "text", "text": "- red\nred"}]}]}


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_key_that_is_not_set(server, tmp_path, monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        Chat(server.settings(tmp_path, key_variable="JUDGE_KEY"))


@pytest.mark.parametrize("value", ["sk-one\nsk-two", "sk-ключ", "sk one"])
def test_a_key_that_is_none_is_not_repeated(server, tmp_path, monkeypatch, value):
    monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="JUDGE_KEY") as caught:
        Chat(server.settings(tmp_path, key_variable="JUDGE_KEY"))
    assert "sk" not in str(caught.value)


def test_the_end_of_a_line_is_no_part_of_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    with ChatServer(key=KEY) as server, Chat(server.settings(tmp_path, key_variable="JUDGE_KEY")) as chat:
        assert chat.complete(BODY).text


def test_the_key_in_place_of_its_name_is_not_repeated(server, tmp_path):
    with pytest.raises(ConfigError, match=r"judge\.key_variable") as caught:
        Chat(server.settings(tmp_path, key_variable=KEY))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["api.openai.com/v1", "ftp://host/v1", "https://", "https://user:secret@host/v1", "https://h/v1?key=secret",
     "https://h:secret/v1", "https://h:0/v1", "https://[secret/v1", "https://h/v1#secret", "https://h/v 1secret"],
)  # fmt: skip
def test_an_address_that_is_none_or_has_a_secret(server, tmp_path, address):
    with pytest.raises(ConfigError, match=r"judge\.base_url") as caught:
        Chat(server.settings(tmp_path, base_url=address))
    assert "secret" not in str(caught.value)
