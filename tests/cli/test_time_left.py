import logging

import pytest

from hermesflow.cli.time_left import Job, TimeLeft, seconds_by_rule, seconds_left
from hermesflow.core.files import read_table, write_json


def job(rule, *needs, threads=1, priority=0):
    return Job(rule, threads, priority, frozenset(needs))


CHAIN = {1: job("tokenizer"), 2: job("base", 1), 3: job("sample", 2), 4: job("evaluate", 1), 5: job("evaluate", 1)}
SECONDS = {1: 10.0, 2: 20.0, 3: 5.0, 4: 1.0, 5: 1.0}


@pytest.mark.parametrize(("cores", "left"), [(1, 37.0), (2, 35.0), (8, 35.0)])
def test_a_chain_takes_its_length_however_many_cores_there_are(cores, left):
    assert seconds_left(CHAIN, SECONDS, set(), cores) == left


def test_many_equal_jobs_take_their_sum_by_cores():
    jobs = {number: job("draw") for number in range(7)}
    assert seconds_left(jobs, dict.fromkeys(jobs, 3.0), set(), 2) == 12.0


def test_what_runs_already_keeps_its_core_and_has_its_rest():
    jobs = {1: job("train"), 2: job("report", 1), 3: job("evaluate", priority=9)}
    assert seconds_left(jobs, {1: 4.0, 2: 1.0, 3: 10.0}, {1}, 1) == 15.0
    assert seconds_left(jobs, {1: 4.0, 2: 1.0, 3: 10.0}, {1}, 2) == 10.0
    assert seconds_left(jobs, {1: 0.0, 2: 1.0, 3: 10.0}, {1, 3}, 2) == 10.0


def test_a_job_needs_all_its_threads_and_no_more_than_there_are():
    jobs = {1: job("clip"), 2: job("base", threads=2), 3: job("base", threads=64)}
    assert seconds_left(jobs, dict.fromkeys(jobs, 5.0), set(), 2) == 15.0
    assert seconds_left(jobs, dict.fromkeys(jobs, 5.0), set(), 3) == 10.0


def test_the_higher_priority_goes_first():
    early = {1: job("evaluate"), 2: job("evaluate"), 3: job("train", priority=1), 4: job("train", 3, priority=1)}
    late = {1: job("evaluate", priority=1), 2: job("evaluate", priority=1), 3: job("train"), 4: job("train", 3)}
    assert seconds_left(early, dict.fromkeys(early, 5.0), set(), 2) == 10.0
    assert seconds_left(late, dict.fromkeys(late, 5.0), set(), 2) == 15.0


def test_nothing_left_takes_no_time():
    assert seconds_left({}, {}, set(), 2) == 0.0


def test_rules_that_finished_here_have_their_mean_and_others_are_scaled_by_it():
    published = {"sample": 10.0, "train": 100.0, "base": 50.0}
    known = seconds_by_rule({"sample": [15.0, 25.0]}, published, {})
    assert known == {"sample": 20.0, "train": 200.0, "base": 100.0}
    known = seconds_by_rule({"sample": [15.0, 25.0], "base": [30.0], "judge": [9.0]}, published, {})
    assert known == {"sample": 20.0, "train": 100.0, "base": 30.0, "judge": 9.0}  # 70 s here, 70 s there


def test_a_running_job_takes_at_least_what_it_has_taken():
    known = seconds_by_rule(
        {"sample": [10.0]}, {"sample": 10.0, "train": 100.0, "base": 5.0}, {"base": 8.0, "train": 3.0}
    )
    assert known == {"sample": 10.0, "train": 100.0, "base": 8.0}


def test_without_a_job_that_both_runs_finished_nothing_published_is_taken():
    assert seconds_by_rule({"judge": [9.0]}, {"train": 100.0}, {"train": 3.0}) == {"judge": 9.0}
    assert seconds_by_rule({}, {"train": 100.0}, {}) == {}
    assert seconds_by_rule({"all": [1.0]}, {"all": 0.0, "train": 9.0}, {}) == {"all": 1.0}


class Run:
    """Snakemake's events of a run of two cores, with a clock of its own."""

    def __init__(self, folder, jobs):
        self.now, self.lines, self.done, self.total = 0.0, [], 0, len(jobs) + 1
        self.durations, self.published = folder / "logs" / "durations.csv", folder / "durations.json"
        files = {"durations": self.durations, "published": self.published}
        self.handler = TimeLeft(jobs, 2, say=self.lines.append, clock=lambda: self.now, **files)
        self.outputs = {number: [f"{job.rule}-{number}.csv", "manifest.json"] for number, job in jobs.items()}

    def event(self, name, **fields):
        self.handler.handle(logging.makeLogRecord({"event": name, **fields}))

    def start(self, number):
        self.event("job_info", jobid=number, output=self.outputs.get(number, []))

    def finish(self, number):
        self.event("job_finished", job_id=number)
        self.done += 1
        self.event("progress", done=self.done, total=self.total)


def test_lines_of_a_run_with_published_durations(tmp_path):
    run = Run(tmp_path, CHAIN)
    write_json(run.published, {"tokenizer": 100.0, "base": 200.0, "sample": 50.0, "evaluate": 10.0})
    run.start(1)
    run.now = 200.0
    run.finish(1)
    for number in (2, 4):
        run.start(number)
    run.now = 201.0
    run.finish(4)  # too soon for a line
    run.start(5)
    run.now = 300.0
    run.finish(5)
    run.now = 500.0
    run.finish(2)
    run.start(3)
    run.now = 501.0
    run.finish(3)
    run.start(0)  # `all`, which makes nothing
    run.finish(0)
    assert run.lines == [
        "1 of 6 steps, 3:20 so far, about 8 min left",  # 400 s + 100 s: 200 s here were 100 s there
        "3 of 6 steps, 5:00 so far, about 9 min left",  # 400 s + 125 s: 300 s here were 120 s there
        "4 of 6 steps, 8:20 so far, about 2 min left",
        "6 of 6 steps, 8:21 so far",
    ]


def test_lines_without_published_durations_say_how_many_steps_have_none(tmp_path):
    run = Run(tmp_path, {1: job("data"), 2: job("train", 1), 3: job("train", 2), 4: job("report", 3)})
    for number in (1, 2, 3, 4):
        run.start(number)
        run.now += 40.0
        run.finish(number)
    assert run.lines == [
        "1 of 5 steps, 0:40 so far, no time known yet of 3 steps",
        "2 of 5 steps, 1:20 so far, no time known yet of 1 step",
        "3 of 5 steps, 2:00 so far, no time known yet of 1 step",
        "4 of 5 steps, 2:40 so far, less than a minute left",
    ]


def test_a_job_that_is_run_again_counts_from_its_last_start(tmp_path):
    run = Run(tmp_path, {1: job("train")})
    run.start(1)
    run.now = 50.0
    run.start(1)
    run.now = 60.0
    run.finish(1)
    assert run.durations.read_text() == "output,rule,seconds\ntrain-1.csv,train,10.00\n"


def test_durations_of_several_runs_are_one_table(tmp_path):
    for seconds in (10.0, 20.0):
        run = Run(tmp_path, {1: job("train"), 2: job("report", 1)})
        run.start(1)
        run.now = seconds
        run.finish(1)
    table = read_table(run.durations, ["output", "rule", "seconds"])
    assert table.to_dict("list") == {"output": ["train-1.csv"] * 2, "rule": ["train"] * 2, "seconds": [10.0, 20.0]}


def test_an_error_of_its_own_is_printed_and_goes_no_further(tmp_path, capsys):
    run = Run(tmp_path, {1: job("data"), 2: job("report", 1)})
    run.published.write_text("{")
    run.start(1)
    run.finish(1)
    assert run.lines == [] and "ArtifactError" in capsys.readouterr().err
    run.published.unlink()
    run.now = 9.0
    run.start(2)
    run.finish(2)
    assert run.lines == ["2 of 3 steps, 0:09 so far, less than a minute left"]
