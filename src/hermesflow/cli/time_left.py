"""Time left of a whole run: a line after finished jobs, from durations that were measured."""

from __future__ import annotations

import csv
import heapq
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from hermesflow.core.files import read_json
from hermesflow.core.progress import DURATION_COLUMNS, clock_time


@dataclass(frozen=True)
class Job:
    """One job of a run."""

    rule: str
    threads: int
    priority: int
    needs: frozenset[int]
    """Jobs that it waits for."""


def seconds_left(jobs: Mapping[int, Job], seconds: Mapping[int, float], running: set[int], cores: int) -> float:
    """Seconds until all jobs are done, where a free core takes the first job of the highest priority that is ready.

    Args:
        jobs: all that are not finished, by number; what they need and is not among them is finished.
        seconds: how long each of them takes from now on, once it runs.
        running: those that run now.
        cores: of the run; a job of more threads gets all of them.
    """
    unfinished, now = set(jobs), 0.0
    threads = {number: min(job.threads, cores) for number, job in jobs.items()}
    waiting = sorted(unfinished - running, key=lambda number: (-jobs[number].priority, number))
    active = [(seconds[number], number) for number in running]
    heapq.heapify(active)
    free = cores - sum(threads[number] for number in running)
    while unfinished:
        for number in list(waiting):
            if threads[number] <= free and not jobs[number].needs & unfinished:
                waiting.remove(number)
                free -= threads[number]
                heapq.heappush(active, (now + seconds[number], number))
        now, number = heapq.heappop(active)
        unfinished.remove(number)
        free += threads[number]
    return now


def seconds_by_rule(
    finished: Mapping[str, Sequence[float]], published: Mapping[str, float], elapsed: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of a job of each rule, where they are known.

    They are the mean of the jobs that finished in this run. Of other rules they are the published seconds, times what
    the finished jobs took here for each second there, and no less than a running job has taken already.

    Args:
        finished: seconds of the jobs of a rule that finished in this run.
        published: seconds of a job of a rule in another run.
        elapsed: the longest that a job of a rule has been running now.
    """
    both = [rule for rule in finished if rule in published]
    expected = sum(len(finished[rule]) * published[rule] for rule in both)
    scale = sum(sum(finished[rule]) for rule in both) / expected if expected > 0 else None
    known = {} if scale is None else {rule: scale * seconds for rule, seconds in published.items()}
    known = {rule: max(seconds, elapsed.get(rule, 0.0)) for rule, seconds in known.items()}
    return known | {rule: fmean(values) for rule, values in finished.items()}


class TimeLeft(logging.Handler):
    """Listen to Snakemake's events, say what is left after finished jobs, and append what each took to a file.

    Args:
        jobs: the jobs of the run by Snakemake's number; what it counts besides, as `all`, takes no time.
        cores: of the run.
        say: takes a line.
        durations: CSV file of `DURATION_COLUMNS` that gets a row for each finished job.
        published: JSON file of the seconds of a job of each rule, if it exists.
        every: least seconds between two lines; the last step always has one.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        jobs: Mapping[int, Job],
        cores: int,
        *,
        say: Callable[[str], None],
        durations: Path,
        published: Path,
        every: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._unfinished, self._cores, self._say, self._clock = dict(jobs), cores, say, clock
        self._durations, self._published, self._every = durations, published, every
        self._running: dict[int, tuple[float, str]] = {}
        self._finished: defaultdict[str, list[float]] = defaultdict(list)
        self._start, self._last = clock(), -every

    def emit(self, record: logging.LogRecord) -> None:
        """Take an event. Errors are printed as logging prints those of its own handlers, and the run goes on."""
        try:
            self._take(vars(record))
        except Exception:
            self.handleError(record)

    def _take(self, event: Mapping[str, object]) -> None:
        match event:
            case {"event": "job_info", "jobid": int(number), "output": [str(output), *_]}:
                self._running[number] = self._clock(), output
            case {"event": "job_finished", "job_id": int(number)} if number in self._running:
                began, output = self._running.pop(number)
                rule, seconds = self._unfinished.pop(number).rule, self._clock() - began
                self._finished[rule].append(seconds)
                self._write(output, rule, seconds)
            case {"event": "progress", "done": int(done), "total": int(total)}:
                now = self._clock() - self._start
                if done >= total or now - self._last >= self._every:
                    self._last = now
                    self._say(self._line(done, total))

    def _write(self, output: str, rule: str, seconds: float) -> None:
        self._durations.parent.mkdir(parents=True, exist_ok=True)
        with self._durations.open("a", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if not file.tell():
                rows.writerow(DURATION_COLUMNS)
            rows.writerow([output, rule, f"{seconds:.2f}"])

    def _line(self, done: int, total: int) -> str:
        now = self._clock()
        line = f"{done} of {total} steps, {clock_time(now - self._start)} so far"
        if done >= total:
            return line
        gone = {number: now - began for number, (began, _) in self._running.items()}
        elapsed: dict[str, float] = {}
        for number, seconds in gone.items():
            rule = self._unfinished[number].rule
            elapsed[rule] = max(seconds, elapsed.get(rule, 0.0))
        published = read_json(self._published) if self._published.exists() else {}
        known = seconds_by_rule(self._finished, published, elapsed)
        unknown = sum(job.rule not in known for job in self._unfinished.values())
        if unknown:
            return f"{line}, no time known yet of {unknown} step{'s' if unknown > 1 else ''}"
        each = {n: max(known[job.rule] - gone.get(n, 0.0), 0.0) for n, job in self._unfinished.items()}
        left = seconds_left(self._unfinished, each, set(gone), self._cores)
        return f"{line}, {'less than a minute' if left < 60 else f'about {round(left / 60)} min'} left"
