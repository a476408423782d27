"""What judges wrote, and the verdicts it comes to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hermesflow.evaluation.judges.instructions import read_choice
from hermesflow.evaluation.judges.protocol import Item, Verdict, outcome_counts


@dataclass(frozen=True)
class Reply:
    """What a judge answered to one question."""

    text: str
    refused: bool
    model: str | None
    """The model that answered, as an endpoint names it; None where a filter answered in its place."""
    prompt_tokens: int | None
    """As reported; None where none are."""
    completion_tokens: int | None
    cached_tokens: int = 0
    """Of the prompt's, those that an endpoint says it had in its own cache."""
    cut: bool = False
    """Whether it ended because no more tokens were allowed."""


def verdict_of(item: Item, reply: Reply) -> Verdict:
    """What a reply says about an item; read anew from the reply's text each time."""
    if reply.refused:
        return Verdict(item.id, "refused", None, reply.text)
    return Verdict(item.id, *read_choice(reply.text, item.choices, cut=reply.cut), reply.text)


def tell_cut(verdicts: Sequence[Verdict], *, name: str, key: str) -> None:
    """Say on stderr how many answers were cut short, and which key of the section of the judge would mend that."""
    if count := outcome_counts(verdicts)["cut short"]:
        print(
            f"judge {name}: {count:,} of {len(verdicts):,} answers were cut before they named a choice and count as "
            f"wrong; raise benchmarks.gap.judge.{key}",
            file=sys.stderr,
        )
