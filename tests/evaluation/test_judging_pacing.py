from datetime import UTC, datetime

import pytest

from hermesflow.evaluation.judges.pacing import Pacer, retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def begun(pacer, clock, count):
    moments = []
    for _ in range(count):
        pacer.wait()
        moments.append(clock.now)
    return moments


def test_requests_begin_evenly():
    clock = Clock()
    assert begun(Pacer(30, sleep=clock.sleep, clock=clock), clock, 4) == [100, 102, 104, 106]


def test_time_that_passed_is_not_made_up_for():
    clock = Clock()
    pacer = Pacer(60, sleep=clock.sleep, clock=clock)
    pacer.wait()
    clock.now = 200.0
    assert begun(pacer, clock, 3) == [200, 201, 202]


def test_a_hold_delays_everybody_once():
    clock = Clock()
    pacer = Pacer(60, sleep=clock.sleep, clock=clock)
    pacer.wait()
    pacer.hold(10)
    pacer.hold(5)  # another thread was told less
    assert begun(pacer, clock, 2) == [110, 111]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90),
        ("Sun, 01 Mar 2026 14:01:30 +0200", 90),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("-3", 0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_seconds_and_as_a_date(header, seconds):
    assert retry_after(header, now=NOW) == seconds
