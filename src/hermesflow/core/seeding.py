"""Named random generators: the same names give the same stream on every machine and in every process."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and seeds of other things do without it
    import torch


def seed_of(*names: str | int) -> int:
    """A 63-bit seed from a path of names, e.g. `seed_of(run_seed, "pair-1", "mask", pair_id, 3)`."""
    text = "/".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*names: str | int) -> torch.Generator:
    """A CPU generator seeded by a path of names."""
    import torch

    return torch.Generator().manual_seed(seed_of(*names))


def deterministic() -> None:
    """The same result every time on the CPU; memory that is about to be written is not filled beforehand."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
