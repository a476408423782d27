"""The budget's memory against measured peaks of whole processes on the CPU, at two sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermesflow.models.costs.memory import text_decoding_peak, training_peak
from hermesflow.models.showo.costs.decoder import Decoder
from hermesflow.models.showo.costs.memory import image_decoding_peak
from tests.support import budget_peaks

CLOSE = 0.1
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}


def measure():
    """Peaks by work and size."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2] / "src")]))
    environment = {**os.environ, **GLIBC, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, budget_peaks.__file__]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def measured():
    return measure()


def planned(work, name):
    size = budget_peaks.SIZES[name]
    config = budget_peaks.config_of(size)
    decoder = Decoder.of(config)
    if work.startswith("train"):
        return training_peak(
            decoder,
            budget_peaks.calls_of(decoder, size.rows // 2),
            precision="no",
            recomputed="recomputed" in work,
            adapters=0,
            processes=1,
            accumulated=False,
        ).total
    if work.startswith("draw"):
        guided = "guided" in work
        return image_decoding_peak(
            decoder, rows=size.rows, prompts=2, prompt_length=24, steps=budget_peaks.STEPS, guided=guided
        )
    rows = 4 * size.rows
    return text_decoding_peak(
        decoder,
        images=2,
        prompts=rows,
        prompt_length=21 + (rows - 1) // 2,
        rows=rows,
        tokens=budget_peaks.TOKENS,
        keep_below=0,  # none ends early
    )


@pytest.mark.parametrize("name", budget_peaks.SIZES)
@pytest.mark.parametrize("work", budget_peaks.WORKS)
def test_peak(measured, work, name):
    assert planned(work, name) == pytest.approx(measured[work][name], rel=CLOSE)


if __name__ == "__main__":
    peaks = measure()
    for work in budget_peaks.WORKS:
        for name in budget_peaks.SIZES:
            want, got = planned(work, name), peaks[work][name]
            print(f"{work:18}{name:8}{want / 1e6:9.1f}{got / 1e6:9.1f}{want / got:8.3f}", flush=True)
