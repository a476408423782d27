"""A judge on this machine: any image-text-to-text model that transformers reads, asked one question at a time.

Answers are kept by content as an endpoint's are: a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hermesflow.config.judges import LocalVlm
from hermesflow.config.sections import Source
from hermesflow.core.errors import DataError
from hermesflow.core.progress import Progress
from hermesflow.data.images import open_image
from hermesflow.evaluation.judges.instructions import prompt_of
from hermesflow.evaluation.judges.protocol import Item, Verdict, check_items
from hermesflow.evaluation.judges.replies import Reply, tell_cut, verdict_of
from hermesflow.evaluation.judges.store import AnswerStore


class LocalJudge:
    """A `Judge`."""

    def __init__(self, settings: LocalVlm, *, device: str) -> None:
        """Load the model.

        Raises:
            ConfigError: it cannot be read, or has no chat template.
            FetchError: a source cannot be had.
        """
        import torch

        from hermesflow.evaluation.graders.pretrained import ChatModel, digest_of

        role, dtype = "the judge (benchmarks.gap.judge.model)", getattr(torch, settings.dtype)
        self._settings, self._model = settings, ChatModel(settings.model, role=role, device=device, dtype=dtype)
        self._store = AnswerStore(Path(settings.cache))
        self.digest = digest_of(settings.model)
        """Hex sha256 of what the model is read from."""

    @property
    def name(self) -> str:
        """Repository or folder of the model."""
        return _name(self._settings.model)

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, by greedy answers; only what no run has asked before is asked, and equal items once.

        Raises:
            DataError: an item cannot be asked; one whose image is broken is found when its turn comes.
            ConfigError: the cache cannot be written.
        """
        check_items(items)
        keys = [self.key_of(item) for item in items]
        wanted, known = dict(zip(keys, items, strict=True)), self._store.read()
        if not wanted.keys() <= known.keys():
            with self._store.writing():
                known = self._store.read()  # with what others have asked meanwhile
                known |= self._ask({key: item for key, item in wanted.items() if key not in known})
        verdicts = [verdict_of(item, known[key]) for key, item in zip(keys, items, strict=True)]
        tell_cut(verdicts, name=self.name, key="max_new_tokens")
        return verdicts

    def key_of(self, item: Item) -> str:
        """Hex sha256 of all that decides an answer but the device: weights, question, image, generation, library."""
        import transformers

        spec = self._settings
        image = hashlib.sha256(item.evidence).hexdigest() if isinstance(item.evidence, bytes) else None
        content = [self.digest, spec.dtype, spec.max_new_tokens, _text_of(item), image, transformers.__version__]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _ask(self, missing: dict[str, Item]) -> dict[str, Reply]:
        progress, replies = Progress(len(missing), f"judge {self.name}", "question"), {}
        for key, item in missing.items():
            replies[key] = self._answer(item)
            self._store.add(key, replies[key])
            progress.advance()
        return replies

    def _answer(self, item: Item) -> Reply:
        content: list[dict[str, Any]] = [{"type": "text", "text": _text_of(item)}]
        if isinstance(item.evidence, bytes):
            content.insert(0, {"type": "image", "image": _decoded(item)})
        allowed = self._settings.max_new_tokens
        written, before = self._model.generate(content, max_new_tokens=allowed)
        tokens = written[0, before:]
        text = str(self._model.processor.decode(tokens, skip_special_tokens=True)).strip()
        cut = len(tokens) >= allowed and int(tokens[-1]) not in self._model.ends
        return Reply(text, False, self.name, None, None, cut=cut)


def _text_of(item: Item) -> str:
    prompt = prompt_of(item)  # in one message: not every chat template knows a system's
    return f"{prompt.system}\n\n{prompt.user}"


def _decoded(item: Item) -> Any:
    assert isinstance(item.evidence, bytes)
    try:
        return open_image(item.evidence)
    except DataError as error:
        raise DataError(f"pair {item.id}: {error} Make it again or remove the pair.") from error


def _name(source: str | Source) -> str:
    return str(source.repo or source.folder) if isinstance(source, Source) else source
