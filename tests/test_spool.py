import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermesflow.tracking import spool
from hermesflow.tracking.spool import FOLDER, Outbox, Record, RunName, Spool

SEED = RunName("smoke", "seed 0", {"seed": "0"}, {"made": "x"})
RUN = RunName("smoke", "pair-1, seed 0", {"seed": "0", "checkpoint": "pair-1"}, {"made": "x"}, SEED)


def metrics(step, value=0.5, key="loss"):
    return Record("http://host:5000", RUN, "metrics", 1000 + step, {"points": [[key, value, 1000 + step, step]]})


class Notebook:
    """A server that notes what it is given; it can be away, and refuses the key `bad`."""

    title = "notebook"

    def __init__(self):
        self.away, self.tries, self.points, self.files = False, 0, [], {}

    def ping(self):
        self.tries += 1
        if self.away:
            raise ConnectionError("away")

    def deliver(self, record):
        self.ping()
        points = record.data.get("points", [])
        if any(point[0] == "bad" for point in points):
            raise ValueError("no such key")
        self.points += points
        if record.kind == "files":
            self.files[record.data["under"]] = Path(record.data["path"]).read_text()

    def explain(self, error):
        return str(error)


def let_go(own):
    """What the end of its process does to a spool."""
    own._lock.close()


def test_records_come_back_as_they_were_and_in_their_order(tmp_path):
    own, written = Spool(tmp_path), [metrics(1), metrics(2, float("nan")), Record(None, SEED, "run", 3, {})]
    for record in written:
        own.add(record)
    records, cut = spool.read(own.folder)
    assert cut == 0
    assert [r.run for r in records] == [RUN, RUN, SEED]
    assert math.isnan(records[1].data["points"][0][1])
    assert (records[0], records[2]) == (written[0], written[2])
    assert own.folder.parent == tmp_path / FOLDER


@pytest.mark.parametrize("length", [1, 30, 200])
def test_a_line_cut_short_spoils_no_other(tmp_path, length):
    own = Spool(tmp_path)
    own.add(metrics(1))
    with (own.folder / "records.jsonl").open("a") as file:
        file.write(spool._line(metrics(2))[:length].rstrip("}"))
    own.add(metrics(3))
    records, cut = spool.read(own.folder)
    assert [r.time for r in records] == [1001, 1003]
    assert cut == (length > 1)


def test_copies_are_of_the_files_as_they_were(tmp_path):
    path, own, server = tmp_path / "answer.md", Spool(tmp_path), Notebook()
    path.write_text("yes")
    own.add(Record(None, RUN, "files", 1, {"path": str(path), "under": "a"}))
    path.write_text("no")
    own.add(Record(None, RUN, "files", 1, {"path": str(path), "under": "b"}))
    path.unlink()
    spool.send(own.folder, spool.read(own.folder)[0], server)
    assert server.files == {"a": "yes", "b": "no"}
    assert spool.waiting(tmp_path) == []


def test_the_folder_of_a_living_process_is_left_alone(tmp_path):
    own = Spool(tmp_path)
    own.add(metrics(1))
    with spool.taken(own.folder) as aside:
        assert aside is None
    let_go(own)
    with spool.taken(own.folder) as aside, spool.taken(aside) as second:
        assert aside.is_dir()
        assert second is None, "two syncs have the same folder"
    with spool.taken(own.folder) as gone:
        assert gone is None


def test_a_folder_taken_where_locks_do_not_reach_loses_nothing(tmp_path):
    path, own, seen = tmp_path / "a.txt", Spool(tmp_path), []
    path.write_text("x")
    for step in range(6):
        own.add(metrics(step))
        if step % 2:
            own.folder.rename(own.folder.with_name(own.folder.name + ".taken"))
        if step == 3:
            own.add(Record(None, RUN, "files", 3, {"path": str(path), "under": None}))
    for folder in spool.waiting(tmp_path):
        seen += spool.read(folder)[0]
    assert sorted(r.time for r in seen if r.kind == "metrics") == [1000 + step for step in range(6)]
    assert len(seen) == 7


def test_a_process_killed_while_it_writes_leaves_all_whole_lines(tmp_path):
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import test_spool\n"
        "from hermesflow.tracking.spool import Spool\n"
        "own = Spool(pathlib.Path(sys.argv[1]))\n"
        "for step in range(10**9):\n"
        "    own.add(test_spool.metrics(step))\n"
        "    print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        while int(job.stdout.readline()) < 200:
            pass
        job.kill()
        told = 200 + len(job.stdout.read().split("\n")) - 1
    (folder,) = spool.waiting(tmp_path)
    with spool.taken(folder) as aside:
        records, cut = spool.read(aside)
    assert [r.data["points"][0][3] for r in records] == list(range(len(records)))
    assert len(records) >= told
    assert cut <= 1


def test_a_refused_record_stays_and_the_others_arrive_in_order(tmp_path):
    own, server = Spool(tmp_path), Notebook()
    for step in range(40):
        own.add(metrics(step, key="bad" if step in (7, 30) else "loss"))
    outcome = spool.send(own.folder, spool.read(own.folder)[0], server)
    assert [point[3] for point in server.points] == [step for step in range(40) if step not in (7, 30)]
    assert [str(record) for record, _ in outcome.refused] == [
        f"metrics of step {step} of run `pair-1, seed 0`" for step in (7, 30)
    ]
    assert [r.time for r in spool.read(own.folder)[0]] == [1007, 1030]
    assert server.tries < 60, "a refused record among many is found by halving"


def test_a_server_that_goes_away_meanwhile_leaves_the_folder_whole(tmp_path):
    own, server = Spool(tmp_path), Notebook()
    own.add(metrics(1))
    server.away = True
    with pytest.raises(ConnectionError):
        spool.send(own.folder, spool.read(own.folder)[0], server)
    assert len(spool.read(own.folder)[0]) == 1


def test_what_a_kill_left_of_a_sent_folder_is_removed(tmp_path):
    own = Spool(tmp_path)
    own.add(metrics(1))
    let_go(own)
    (own.folder / "records.jsonl").unlink()
    with spool.taken(own.folder) as aside:
        assert spool.send(aside, spool.read(aside)[0], Notebook()).sent == 0
    assert spool.waiting(tmp_path) == []


def test_a_server_that_is_away_is_tried_seldom_and_told_of_once(tmp_path, monkeypatch, capsys):
    now, server = [0.0], Notebook()
    monkeypatch.setattr(spool.time, "monotonic", lambda: now[0])
    outbox = Outbox(tmp_path, server)
    server.away = True
    for step in range(1000):
        outbox.put(metrics(step))
        now[0] += 0.1
    assert server.tries <= 1 + 100 / spool.PAUSE
    server.away = False
    now[0] += spool.PAUSE
    outbox.put(metrics(1000))
    outbox.put(metrics(1001))
    assert [point[3] for point in server.points] == list(range(1002))
    first, second = capsys.readouterr().err.splitlines()
    assert "hermesflow sync" in first
    assert str(tmp_path / FOLDER) in first
    assert "is back and has the 1000 records" in second
    assert spool.waiting(tmp_path) == []


def test_a_slow_failure_is_repeated_all_the_more_seldom(tmp_path, monkeypatch):
    now = [0.0]

    class Hanging(Notebook):
        def ping(self):
            now[0] += 10
            super().ping()

    server = Hanging()
    server.away = True
    monkeypatch.setattr(spool.time, "monotonic", lambda: now[0])
    outbox = Outbox(tmp_path, server)
    for step in range(10_000):
        outbox.put(metrics(step))
        now[0] += 0.1
    assert server.tries * 10 <= 0.06 * now[0]


def test_a_disk_that_takes_nothing_is_told_of_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    server = Notebook()
    server.away = True
    outbox = Outbox(tmp_path, server)
    for step in range(3):
        outbox.put(metrics(step))
    assert capsys.readouterr().err.count("could not be kept on disk and is lost") == 1


def test_lines_are_plain_json(tmp_path):
    own = Spool(tmp_path)
    own.add(metrics(1))
    plain = json.loads((own.folder / "records.jsonl").read_text())
    assert plain["run"]["parent"]["name"] == "seed 0"
    assert plain["server"] == "http://host:5000"
