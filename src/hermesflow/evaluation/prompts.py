"""Prompts that a checkpoint generates a benchmark's images from, in an order that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hermesflow.evaluation.worlds.generation import Request

TOGETHER = 250  # images of a batch, whole prompts: what is kept at once, and dealt to shards


@dataclass(frozen=True)
class Prompts:
    """What a checkpoint generates for one benchmark."""

    benchmark: str
    ids: tuple[str, ...]
    """One per prompt, unique."""
    texts: tuple[str, ...]
    images: int
    """Of each prompt."""

    @property
    def batch(self) -> int:
        """Prompts whose images are generated together."""
        return max(TOGETHER // self.images, 1)

    @property
    def digest(self) -> str:
        """Of what is generated: ids alone do not tell texts apart where they are numbers."""
        from hermesflow.core.files import digest_of

        return digest_of([self.ids, self.texts, self.images])

    def requests(self, ids: list[str]) -> list[Request]:
        """The images of some prompts; the random numbers of each come from benchmark, prompt and number."""
        from hermesflow.evaluation.worlds.generation import Request

        text_of = dict(zip(self.ids, self.texts, strict=True))
        return [Request(f"{self.benchmark}/{id_}", k, text_of[id_]) for id_ in ids for k in range(self.images)]
