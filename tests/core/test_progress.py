import io

from hermesflow.core.progress import Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_are_rare_and_say_done_rate_and_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(4000, "sample", "pair", every=3.0, stream=stream, clock=clock)
    for _ in range(40):
        clock.now += 0.1
        progress.advance(10)
    lines = stream.getvalue().splitlines()
    assert lines == ["sample: 300/4,000 pairs, 100.0 pairs/s, 0:37 left"]


def test_last_unit_always_prints_and_tells_the_time_taken():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(2, "score", "row", stream=stream, clock=clock)
    clock.now = 1.0
    progress.advance()
    assert stream.getvalue() == ""
    clock.now = 3725.0
    progress.advance()
    assert stream.getvalue() == "score: 2/2 rows, 0.0 rows/s, took 1:02:05\n"


def test_a_clock_that_stands_still_is_no_error():
    stream = io.StringIO()
    Progress(1, "x", "thing", stream=stream, clock=lambda: 5.0).advance()
    assert stream.getvalue() == "x: 1/1 things, 0.0 things/s, took 0:00\n"


def test_lines_go_to_stderr(capsys):
    Progress(1, "x", "thing").advance()
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("x: 1/1 things")
