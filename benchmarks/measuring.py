"""Seconds, peak memory and FLOPs of a piece of work."""

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

from benchmarks import limits
from benchmarks.limits import Machine
from benchmarks.works import Run, Side, Work

LONGEST = 30.0
"""Seconds after which a work is not repeated any more."""
_PAGE = 4096


@dataclass(frozen=True)
class Measured:
    """One run."""

    seconds: float
    peak: int
    """Bytes above what the process held before."""
    result: Any


def entry(name: str, work: Work, *, repeats: int) -> dict[str, Any]:
    """One entry of the results; our path runs once more to warm up, when its FLOPs are counted."""
    before = Machine.measured()
    flops = counted(work.ours.prepare())
    ours = repeated(work.ours, repeats)
    plain = repeated(work.plain, repeats)
    machine = before.best(Machine.measured())
    seconds, plain_seconds = (
        statistics.median(one.seconds for one in runs) / side.share
        for runs, side in ((ours, work.ours), (plain, work.plain))
    )
    limit = machine.seconds(work.limit)
    achieved = flops / work.ours.share / seconds
    whole = min(work.ours.share, work.plain.share) >= 1
    return {
        "name": name,
        "about": work.about,
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "limit_seconds": limit,
        "time_ratio": plain_seconds / seconds,
        "time_ratio_limit": plain_seconds / limit,
        "fraction_of_limit": limit / seconds,
        "memory": ours[0].peak,
        "plain_memory": plain[0].peak,
        "memory_ratio": plain[0].peak / ours[0].peak,
        "flops": flops / work.ours.share,
        "limit_flops": limits.flops_of(work.limit),
        "flops_per_second": achieved,
        "flops_of_peak": achieved / machine.flops,
        "repeats": len(ours),
        "plain_repeats": len(plain),
        "ours_measured": work.ours.share,
        "plain_measured": work.plain.share,
        "same": bool(work.same(ours[0].result, plain[0].result)) if whole else None,
        "machine": machine.plain(),
    }


def repeated(side: Side, repeats: int) -> list[Measured]:
    """Some runs, fewer of what takes long."""
    done = [run(side)]
    while len(done) < repeats and sum(one.seconds for one in done) + done[-1].seconds < LONGEST:
        done.append(run(side))
    return done


def run(side: Side) -> Measured:
    """Once, with the kernel's word for the peak of the process meanwhile."""
    _give_back()
    before = _status("RssAnon")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work = side.prepare()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return Measured(seconds, max(_status("VmHWM") - _status("RssFile") - before, _PAGE), result)


def fastest(work: Run, tries: int) -> float:
    """Seconds of the best of some tries: for curves, which a disturbed try would bend."""
    seconds = []
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def counted(work: Callable[[], object]) -> float:
    """FLOPs of matrix products as torch counts them; it sees plain products alone."""
    with (
        patch("hermesflow.models.kernels.by_onednn", return_value=False),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        work()
    return float(counter.get_total_flops())


def _give_back() -> None:
    """Freed memory goes back to the kernel, which glibc would keep for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
