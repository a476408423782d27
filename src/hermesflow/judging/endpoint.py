"""A judge behind a chat-completions endpoint: each question is paid for once, whatever is killed and begun again."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from hermesflow.judging.chat import Chat, Stopped
from hermesflow.judging.cost import Bill, Reply, estimate, total
from hermesflow.judging.instructions import prompt_of, read_choice
from hermesflow.judging.protocol import Item, Verdict, check_items
from hermesflow.judging.settings import Endpoint
from hermesflow.judging.store import AnswerStore
from hermesflow.progress import Progress

TEMPERATURE = 0.0


class EndpointJudge:
    """A `Judge`."""

    def __init__(self, settings: Endpoint) -> None:
        self._settings = settings
        self._store = AnswerStore(Path(settings.cache))
        self.models: tuple[str, ...] = ()
        """Models that gave the verdicts of the last call, as the endpoint names them."""
        self.bill: Bill | None = None
        """What the verdicts of the last call cost, whichever run paid for them."""

    @property
    def name(self) -> str:
        """The model asked for."""
        return self._settings.model

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item; only what no run has asked before is asked, and equal items once.

        Says on stderr what it will cost and what it has cost.

        Raises:
            DataError: an item cannot be asked; nothing has been asked then.
            ConfigError: no key, no address, or a cache that cannot be written.
            JudgeError: the endpoint does not answer; what it has answered is kept.
        """
        check_items(items)
        keys = [key_of(item, self._settings) for item in items]
        known = self._store.read()
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
        self._say_estimate(len(set(keys)), list(missing.values()))
        new = self._ask(missing) if missing else {}
        used = {key: new.get(key) or known[key] for key in keys}
        self.bill = total(used.values(), self._settings.prices)
        self._say_total(self.bill, total(new.values(), self._settings.prices))
        self.models = tuple(sorted({reply.model for reply in used.values()}))
        return [verdict_of(item, used[key]) for key, item in zip(keys, items, strict=True)]

    def estimate(self, items: Sequence[Item]) -> Bill:
        """What `judge` would have to pay for: the items whose answers are not kept yet."""
        known = self._store.read()
        missing = {key_of(item, self._settings): item for item in items}
        return self._estimate([item for key, item in missing.items() if key not in known])

    def _estimate(self, missing: Sequence[Item]) -> Bill:
        return estimate(missing, self._settings.prices, max_tokens=self._settings.max_tokens)

    def _ask(self, missing: Mapping[str, Item]) -> dict[str, Reply]:
        progress = Progress(len(missing), f"judge {self.name}", "question")
        replies = {}
        workers = ThreadPoolExecutor(self._settings.pace.concurrency)
        with Chat(self._settings) as chat, self._store.writing(), workers:
            asked = {workers.submit(self._ask_one, chat, key, item): key for key, item in missing.items()}
            try:
                for done in as_completed(asked):
                    with suppress(Stopped):  # by an error that is still to come
                        replies[asked[done]] = done.result()
                        progress.advance()
            except BaseException:  # Ctrl-C too: what is under way ends and is kept, the rest is not begun
                chat.stop()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return replies

    def _ask_one(self, chat: Chat, key: str, item: Item) -> Reply:
        try:
            reply = chat.complete(body_of(item, self._settings))
            self._store.add(key, reply)
        except Exception:  # at once, before this thread takes the next item
            chat.stop()
            raise
        return reply

    def _say_estimate(self, asked: int, missing: Sequence[Item]) -> None:
        bill = self._estimate(missing)
        print(
            f"judge {self.name}: {asked - bill.answers:,} of {asked:,} questions are answered in "
            f"{self._settings.cache}; {bill.answers:,} to ask, estimated {bill.prompt_tokens:,} tokens in, at most "
            f"{bill.completion_tokens:,} out, {bill.dollars:.2f} US dollars",
            file=sys.stderr,
        )

    def _say_total(self, used: Bill, new: Bill) -> None:
        unmetered = f" (without {used.unmetered:,} answers it reports no tokens of)" if used.unmetered else ""
        print(
            f"judge {self.name}: {used.answers:,} answers cost {used.dollars:.2f} US dollars in all{unmetered}, "
            f"{used.prompt_tokens:,} tokens in and {used.completion_tokens:,} out; "
            f"{new.dollars:.2f} of it in this run, for {new.answers:,} answers",
            file=sys.stderr,
        )


def key_of(item: Item, settings: Endpoint) -> str:
    """Hex sha256 of all that decides an answer: model, instructions, question, choices, evidence, sampling."""
    prompt = prompt_of(item)
    image = hashlib.sha256(item.evidence).hexdigest() if isinstance(item.evidence, bytes) else None
    content = [prompt.system, prompt.user, image, settings.model, _sampling(settings), settings.detail]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def body_of(item: Item, settings: Endpoint) -> dict[str, Any]:
    """A request of the chat-completions protocol; the image as a data: URL."""
    prompt = prompt_of(item)
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.user}]
    if isinstance(item.evidence, bytes):
        url = f"data:image/png;base64,{base64.b64encode(item.evidence).decode()}"
        content.append({"type": "image_url", "image_url": {"url": url, "detail": settings.detail}})
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
    return {"model": settings.model, "messages": messages, **_sampling(settings)}


def verdict_of(item: Item, reply: Reply) -> Verdict:
    """What a reply says about an item; read anew from the reply's text each time."""
    if reply.refused:
        return Verdict(item.id, "refused", None, reply.text)
    return Verdict(item.id, *read_choice(reply.text, item.choices), reply.text)


def _sampling(settings: Endpoint) -> dict[str, Any]:
    return {"temperature": TEMPERATURE, "seed": settings.seed, "max_tokens": settings.max_tokens}
