"""CPU seconds, which are those of the clock where nothing else runs, peak memory and FLOPs of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import limits
from bench.limits import Machine
from bench.works import Run, Side, Work

LONGEST = 30.0
"""Seconds after which a work is not repeated any more."""
_PAGE = 4096


@dataclass(frozen=True)
class Measured:
    """A side of a work."""

    seconds: list[float]
    """Of every run but the first, which finds no memory to use again (a training has thousands of steps); of the first
    where it takes long."""
    peak: int
    """Bytes above what the process held before, in the first run."""
    result: Any
    """Of the first run."""


def entry(
    name: str, work: Work, *, family: str, bar: float | None = None, repeats: int, size: str = "medium"
) -> dict[str, Any]:
    """One entry of the results; FLOPs are counted in a run of their own. `bar`: times as fast that are asked for."""
    read = min(p.read for p in work.limit)
    before = Machine.measured(read, size)
    flops = counted(work.ours.prepare())
    ours, plain = (measured(side, repeats) for side in (work.ours, work.plain))
    seconds, plain_seconds = (
        statistics.median(found.seconds) / side.share for found, side in ((ours, work.ours), (plain, work.plain))
    )
    achieved = flops / work.ours.share / seconds
    # a machine that was disturbed while its peak was measured reaches at least what the work reached
    machine = before.best(Machine.measured(read, size)).best(Machine(achieved, 0.0))
    limit = machine.seconds(work.limit)
    whole = min(work.ours.share, work.plain.share) >= 1
    return {
        "family": family,
        "name": name,
        "bar": bar,
        "about": work.about,
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "limit_seconds": limit,
        "time_ratio": plain_seconds / seconds,
        "time_ratio_limit": plain_seconds / limit,
        "fraction_of_limit": limit / seconds,
        "memory": ours.peak,
        "plain_memory": plain.peak,
        "memory_ratio": plain.peak / ours.peak,
        "flops": flops / work.ours.share,
        "limit_flops": limits.flops_of(work.limit),
        "flops_per_second": achieved,
        "flops_of_peak": achieved / machine.flops,
        "repeats": len(ours.seconds),
        "plain_repeats": len(plain.seconds),
        "ours_measured": work.ours.share,
        "plain_measured": work.plain.share,
        "same": bool(work.same(ours.result, plain.result)) if whole else None,
        "machine": machine.plain(),
    }


def measured(side: Side, repeats: int) -> Measured:
    """Some runs, fewer of what takes long; the peak is the kernel's word for the process."""
    release_memory()
    before = _status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work = side.prepare()
    start = time.process_time()
    result = work()
    first = time.process_time() - start
    peak = max(_status("VmHWM") - _status("RssFile") - before, _PAGE)
    seconds = [first if first > LONGEST else _seconds(work)]
    while len(seconds) < repeats and sum(seconds) + seconds[-1] < LONGEST:
        seconds.append(_seconds(work))
    return Measured(seconds, peak, result)


def fastest(work: Run, tries: int) -> float:
    """Seconds of the best of some tries: for curves, which a disturbed try would bend."""
    return min(_seconds(work) for _ in range(tries))


def counted(work: Callable[[], object]) -> float:
    """FLOPs of matrix products as torch counts them; it sees plain products alone."""
    with (
        patch("hermesflow.models.kernels.by_onednn", return_value=False),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        work()
    return float(counter.get_total_flops())


def _seconds(work: Run) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def release_memory() -> None:
    """Freed memory goes back to the kernel, which glibc would keep for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
