"""Which library multiplies float32 matrices on the CPU: a fixed rule of the processor.

Libraries round differently, so the choice is never made by timing: two runs on one machine give the same bytes. MKL
takes its fastest paths on Intel's processors alone; elsewhere oneDNN was 1.1 to 2.2 times as fast (decision 0009).
"""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

MatrixKernel: TypeAlias = Literal["blas", "onednn"]
"""`blas` is what torch was built with, MKL on x86."""
_VARIABLE = "HERMESFLOW_MATRIX_KERNEL"  # processes that a stage starts inherit it
_CPUINFO = Path("/proc/cpuinfo")


@cache
def matrix_kernel() -> MatrixKernel:
    """The kernel in use."""
    kernel = os.environ.get(_VARIABLE)
    if kernel in get_args(MatrixKernel):
        return cast(MatrixKernel, kernel)
    return "blas" if processor().startswith("GenuineIntel") else "onednn"


def use_matrix_kernel(kernel: MatrixKernel | None) -> None:
    """Override the rule, in the processes that this one starts too; None goes back to it."""
    os.environ[_VARIABLE] = kernel or ""
    matrix_kernel.cache_clear()


@cache
def processor() -> str:
    """Vendor and widest vector instructions, such as `GenuineIntel avx512f`."""
    facts = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    vendor = re.search(r"vendor_id\s*: (\S+)", facts)
    vectors = re.search(r"\bavx512f\b", facts) or re.search(r"\b(avx2|asimd)\b", facts)
    return " ".join([vendor[1] if vendor else platform.machine(), *([vectors[0]] if vectors else [])])
