"""The questions of each pair: the source's own, and those that models write about its caption, checked and merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from hermesflow.config.data import QuestionModels
from hermesflow.config.experiment import as_plain
from hermesflow.core.files import digest_of
from hermesflow.core.progress import Progress
from hermesflow.data.questions import tifa
from hermesflow.data.questions.rows import merge
from hermesflow.data.sources.drawing import Candidate, Source
from hermesflow.data.sources.store import Store

Written = tuple[list[dict[str, Any]], Counter[str]]
"""Questions kept of one caption, and why others were dropped."""
_KEPT = "kept"
_REPEATED = "asked before"


class Asker:
    """Questions of candidates (a `drawing.Questions`).

    Captions go to the models in fixed blocks of the seeded order, and each block is kept when it is done: a killed
    run goes on from there, and the blocks, and so the padding and the float rounding, are the same as without it.

    Args:
        source: knows the candidates' own questions.
        settings: models that write more; None where there are none.
        store: keeps finished blocks.
        models: makes the writer and the checker when they are first needed.
    """

    def __init__(
        self,
        source: Source,
        settings: QuestionModels | None,
        store: Store,
        models: Callable[[QuestionModels], tuple[Any, Any]],
    ) -> None:
        self._source, self._settings, self._store, self._models = source, settings, store, models
        self._loaded: tuple[Any, Any] | None = None
        self._written: dict[str, Written] = {}
        # where and how it runs changes the time alone
        self._digest = "" if settings is None else digest_of(as_plain(settings))

    @property
    def block(self) -> int:
        """Captions per forward pass."""
        return 1 if self._settings is None else self._settings.batch_captions

    def fault(self, candidate: Candidate) -> str | None:
        """Why its questions will not do; None as long as the models have not been asked."""
        if self._settings is not None and candidate.caption not in self._written:
            return None
        if self.rows(candidate):
            return ""
        dropped = sum([self._source.own_questions(candidate)[1], *self._dropped(candidate)], Counter[str]())
        why = ", ".join(f"{n} dropped, {reason}" for reason, n in sorted(dropped.items()))
        return f"no questions: {why}" if why else "no questions"

    def ask(self, order: Sequence[Candidate], unknown: Sequence[Candidate]) -> None:
        """Have every block of the order written that holds one of the unknown."""
        assert self._settings is not None
        size = self.block
        missing = {candidate.caption for candidate in unknown} - self._written.keys()
        blocks = [order[start : start + size] for start in range(0, len(order), size)]
        needed = [block for block in blocks if any(candidate.caption in missing for candidate in block)]
        progress = Progress(len(needed), "questions of captions", "batch")
        for block in needed:
            captions = list(dict.fromkeys(candidate.caption for candidate in block if candidate.caption))
            key = digest_of([self._digest, captions])
            results = self._store.text(key)
            if results is None:
                results = self._write(captions)
                self._store.add_text(key, results)
            for caption, (rows, dropped) in zip(captions, results, strict=True):
                self._written.setdefault(caption, (rows, Counter(dropped)))
            progress.advance()

    def rows(self, candidate: Candidate) -> list[dict[str, Any]]:
        """All questions of a candidate: its own first, each question once."""
        return merge(self._lists(candidate))[0]

    def counts(self, chosen: Sequence[Candidate]) -> pd.DataFrame:
        """What became of the questions of some candidates: columns from (`source` or `model`), outcome, questions."""
        total: Counter[tuple[str, str]] = Counter()
        for candidate in chosen:
            lists = self._lists(candidate)
            dropped = [self._source.own_questions(candidate)[1], *self._dropped(candidate)]
            for origin, rows, repeats, why in zip(("source", "model"), lists, merge(lists)[1], dropped, strict=False):
                total += Counter({(origin, _KEPT): len(rows) - repeats, (origin, _REPEATED): repeats})
                total.update({(origin, reason): n for reason, n in why.items()})
        rows_ = [(origin, outcome, n) for (origin, outcome), n in sorted(total.items())]
        return pd.DataFrame(rows_, columns=["from", "outcome", "questions"])

    def _lists(self, candidate: Candidate) -> list[list[dict[str, Any]]]:
        source_rows = self._source.own_questions(candidate)[0]
        return [source_rows] if self._settings is None else [source_rows, self._written[candidate.caption][0]]

    def _dropped(self, candidate: Candidate) -> list[Counter[str]]:
        return [] if self._settings is None else [self._written[candidate.caption][1]]

    def _write(self, captions: Sequence[str]) -> list[tuple[list[dict[str, Any]], dict[str, int]]]:
        """Write and check the questions of one block."""
        assert self._settings is not None
        if self._loaded is None:
            self._loaded = self._models(self._settings)
        writer, checker = self._loaded
        parse = tifa.parse_tifa if self._settings.format == "tifa" else tifa.parse_json
        parsed = [parse(text) for text in writer.write(captions)]
        flat = [(caption, row) for caption, (rows, _) in zip(captions, parsed, strict=True) for row in rows]
        chosen = checker.answer([tifa.choice_prompt(row, caption) for caption, row in flat])
        free = checker.answer([tifa.free_prompt(row, caption) for caption, row in flat])
        verdicts = iter(
            tifa.agrees(row, a, b, min_f1=self._settings.min_f1)
            for (_, row), a, b in zip(flat, chosen, free, strict=True)
        )
        return [_checked(rows, dropped, [next(verdicts) for _ in rows]) for rows, dropped in parsed]


def _checked(
    rows: Sequence[dict[str, Any]], dropped: Counter[str], verdicts: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    counted = dropped + Counter(verdict for verdict in verdicts if verdict)
    return [row for row, verdict in zip(rows, verdicts, strict=True) if not verdict], dict(sorted(counted.items()))
