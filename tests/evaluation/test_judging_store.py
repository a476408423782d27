import errno
import json
import threading
from dataclasses import asdict

import pytest

from hermesflow.core.errors import ConfigError
from hermesflow.evaluation.judges.replies import Reply
from hermesflow.evaluation.judges.store import AnswerStore

REPLY = Reply('{"choice": "rötlich"}', False, "m", 10, None)


def test_replies_come_back_as_they_were_kept(tmp_path):
    store = AnswerStore(tmp_path / "cache")
    assert store.read() == {}
    with store.writing():
        store.add("k", REPLY)
        assert AnswerStore(tmp_path / "cache").read() == {"k": REPLY}  # at once, for other processes too


def test_what_a_kill_cut_short_spoils_no_other_line(tmp_path):
    store = AnswerStore(tmp_path)
    with store.writing():
        store.add("a", REPLY)
        store.add("b", REPLY)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-9])
    assert store.read() == {"a": REPLY}
    with path.open("a") as file:
        file.write('\n[1]\n{"key": "x"}\n{"key": "x", "reply": {}}')
    with store.writing():
        store.add("c", REPLY)
    assert store.read() == {"a": REPLY, "c": REPLY}


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_paid_for(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"judge\.cache"), AnswerStore(tmp_path / "file" / "cache").writing():
        pytest.fail("nothing may be asked")


def test_one_asks_after_the_other_into_files_of_their_own(tmp_path, capsys):
    first, second, seen = AnswerStore(tmp_path), AnswerStore(tmp_path), []

    def ask_too():
        with second.writing():
            seen.append(set(second.read()))
            second.add("b", REPLY)

    other = threading.Thread(target=ask_too, daemon=True)
    with first.writing():
        other.start()
        other.join(0.3)
        first.add("a", REPLY)
    other.join(10)
    assert seen == [{"a"}]
    assert len(list(tmp_path.iterdir())) == 2
    assert set(first.read()) == {"a", "b"}
    assert "another process asks" in capsys.readouterr().err


def test_where_there_are_no_locks_two_may_ask_at_once(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    first, second = AnswerStore(tmp_path), AnswerStore(tmp_path)
    with first.writing(), second.writing():
        first.add("a", REPLY)
        second.add("b", REPLY)
    assert set(first.read()) == {"a", "b"}


def test_answers_kept_before_there_was_more_to_keep_are_read(tmp_path):
    (tmp_path / "1.jsonl").write_text(
        '{"key": "k", "reply": {"text": "red", "refused": false, "model": "m", "prompt_tokens": 1, '
        '"completion_tokens": 2}}'
    )
    assert AnswerStore(tmp_path).read() == {"k": Reply("red", False, "m", 1, 2)}


def test_lines_that_nothing_can_read_are_as_if_they_were_not_there(tmp_path):
    record = {"key": "k", "reply": asdict(REPLY)}
    lines = ["[" * 100_000, "9" * 10_000, json.dumps(record), "null"]
    (tmp_path / "1.jsonl").write_text("\n".join(lines))
    assert AnswerStore(tmp_path).read() == {"k": REPLY}
