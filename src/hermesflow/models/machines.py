"""Equal passes of a model, and the time they take on a GPU.

A pass takes the longer of its arithmetic and its reading of weights, keys and values, as a roofline says: drawing an
image is bound by arithmetic, writing a text token by token by memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hermesflow.core.errors import ConfigError

UTILISATION = 0.4
"""Share of a GPU's peak FLOP/s that is reached. A guess, and the default of `--utilisation`: training codes of this
size report 0.3 to 0.5."""
BANDWIDTH_UTILISATION = 0.7
"""Share of a GPU's memory bandwidth that is reached; a guess."""


FLOAT = 4
"""Bytes of a float32."""
FLOAT32 = "no"
"""Name of float32 among the precisions of a config."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its data sheet has it."""

    name: str
    flops: Mapping[str, float]
    """Dense FLOP/s by precision; `no` is float32 without TF32, which torch leaves off."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes of its memory read per second."""


@dataclass(frozen=True)
class Machine:
    """Some GPUs of one kind."""

    gpu: Gpu
    gpus: int

    @property
    def name(self) -> str:
        """Such as `8 x A100`."""
        return f"{self.gpus} x {self.gpu.name}"


def _gpu(name: str, *, half: float, float32: float, memory: float, bandwidth: float) -> Gpu:
    return Gpu(name, {"no": float32, "bf16": half, "fp16": half}, memory, bandwidth)


GPUS = {
    "h100": _gpu("H100 SXM", half=989e12, float32=67e12, memory=80e9, bandwidth=3.35e12),
    "a100": _gpu("A100", half=312e12, float32=19.5e12, memory=80e9, bandwidth=2.0e12),
}
"""Source: NVIDIA's data sheets of the H100 SXM and the A100 80 GB."""
MACHINES = ("1xh100", "8xa100")


def machine_of(text: str) -> Machine:
    """The machine that `8xa100` names.

    Raises:
        ConfigError: not of that form, or a GPU that is not in `GPUS`.
    """
    number, _, name = text.lower().partition("x")
    if not number.isdigit() or int(number) < 1 or name not in GPUS:
        raise ConfigError(f"--machines {text}: write NUMBERxGPU, such as 8xa100; GPUs known: {', '.join(GPUS)}.")
    return Machine(GPUS[name], int(number))


@dataclass(frozen=True)
class Pass:
    """Equal passes; every figure but `times` is of one of them."""

    times: float
    """How many."""
    flops: float
    """Of matrix products, attention and convolutions alone; a multiplication and an addition are two."""
    read: float
    """Bytes of weights, keys and values."""
    tokens: float = 0
    """Positions that run through the decoder; 0 for what is not a forward pass of it (heads, optimiser, pixels)."""

    def seconds(self, gpu: Gpu, *, precision: str, utilisation: float) -> float:
        """All of them on one GPU."""
        arithmetic = self.flops / (gpu.flops[precision] * utilisation)
        reading = self.read / (gpu.bandwidth * BANDWIDTH_UTILISATION)
        return self.times * max(arithmetic, reading)

    def repeated(self, times: float) -> Pass:
        """So many times as many."""
        return Pass(self.times * times, self.flops, self.read, self.tokens)


@dataclass(frozen=True)
class Load:
    """What one seed's job or jobs of a rule, for one checkpoint, put on GPUs."""

    passes: list[Pass]
    memory: float
    """Bytes of a GPU at the peak."""
    precision: str


def total(passes: Iterable[Pass], quantity: str) -> float:
    """Sum over passes of `tokens`, `flops` or `read`."""
    return sum(one.times * float(getattr(one, quantity)) for one in passes)


def forwards(passes: Iterable[Pass]) -> float:
    """Number of forward passes of the decoder."""
    return sum(one.times for one in passes if one.tokens)
