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

from hermesflow.config.judges import Endpoint
from hermesflow.core.errors import JudgeError
from hermesflow.core.progress import Progress
from hermesflow.evaluation.judges.chat import Chat, Stopped
from hermesflow.evaluation.judges.cost import ROUNDING, Bill, Budget, estimate, total
from hermesflow.evaluation.judges.instructions import prompt_of
from hermesflow.evaluation.judges.protocol import Item, Verdict, check_items
from hermesflow.evaluation.judges.replies import Reply, tell_cut, verdict_of
from hermesflow.evaluation.judges.store import AnswerStore

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

    def check(self, items: Sequence[Item]) -> None:
        """Find out what would keep `judge` from asking, before the work that leads to more items is done.

        Raises:
            DataError: an item cannot be asked.
            ConfigError: some must be asked, and there is no key or no address.
            JudgeError: they are estimated beyond `max_cost`.
        """
        check_items(items)
        wanted, known = self._by_key(items), self._store.read()
        if missing := [item for key, item in wanted.items() if key not in known]:
            with Chat(self._settings):
                self._check_cost(missing, known)

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item; only what no run has asked before is asked, and equal items once.

        Says on stderr what it will cost and what it has cost.

        Raises:
            DataError: an item cannot be asked; nothing has been asked then.
            ConfigError: no key, no address, or a cache that cannot be written.
            JudgeError: the endpoint does not answer, or `max_cost` is reached; what it has answered is kept.
        """
        check_items(items)
        wanted, known, new = self._by_key(items), self._store.read(), dict[str, Reply]()
        if wanted.keys() <= known.keys():
            self._say_estimate(len(wanted), [])
        else:
            with Chat(self._settings) as chat, self._store.writing():
                known = self._store.read()  # with what others have paid for meanwhile
                missing = {key: item for key, item in wanted.items() if key not in known}
                self._say_estimate(len(wanted), list(missing.values()))
                self._check_cost(list(missing.values()), known)
                new = self._ask(chat, missing, Budget(self._settings.max_cost, spent=self._spent(known)))
        used = {key: new.get(key) or known[key] for key in wanted}
        self.bill = total(used.values(), self._settings.prices)
        self._say_total(self.bill, total(new.values(), self._settings.prices))
        self.models = tuple(sorted({reply.model for reply in used.values() if reply.model}))
        verdicts = [verdict_of(item, used[key_of(item, self._settings)]) for item in items]
        tell_cut(verdicts, name=self.name, key="max_tokens")
        return verdicts

    def _by_key(self, items: Sequence[Item]) -> dict[str, Item]:
        return {key_of(item, self._settings): item for item in items}

    def _estimate(self, missing: Sequence[Item]) -> Bill:
        return estimate(missing, self._settings.prices, max_tokens=self._settings.max_tokens)

    def _spent(self, known: Mapping[str, Reply]) -> float:
        return total(known.values(), self._settings.prices).dollars

    def _check_cost(self, missing: Sequence[Item], known: Mapping[str, Reply]) -> None:
        limit, spent, more = self._settings.max_cost, self._spent(known), self._estimate(missing).dollars
        if limit is not None and spent + more > limit * (1 + ROUNDING):
            raise JudgeError(
                f"judge {self.name}: the {len(known):,} answers in {self._settings.cache} cost {spent:,.4f} US "
                f"dollars, and {len(missing):,} more are estimated at {more:,.4f}: together more than "
                f"benchmarks.gap.judge.max_cost ({limit:g}). Nothing has been asked. Raise it, or ask less: fewer "
                "data.gap_pairs, or a cheaper benchmarks.gap.judge.model."
            )

    def _ask(self, chat: Chat, missing: Mapping[str, Item], budget: Budget) -> dict[str, Reply]:
        progress = Progress(len(missing), f"judge {self.name}", "question")
        replies = {}
        with ThreadPoolExecutor(self._settings.pace.concurrency) as workers:
            futures = {workers.submit(self._ask_one, chat, key, item, budget): key for key, item in missing.items()}
            try:
                for future in as_completed(futures):
                    with suppress(Stopped):  # by an error that is still to come
                        replies[futures[future]] = future.result()
                        progress.advance()
            except BaseException:  # Ctrl-C too: what is under way ends and is kept, the rest is not begun
                chat.stop()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return replies

    def _ask_one(self, chat: Chat, key: str, item: Item, budget: Budget) -> Reply:
        try:
            price = self._estimate([item]).dollars
            if not budget.reserve(price):
                raise JudgeError(
                    f"judge {self.name}: answers in {self._settings.cache} come to {budget.used:,.4f} US dollars "
                    f"with those under way, and the next one is estimated at {price:,.4f}: more than "
                    f"benchmarks.gap.judge.max_cost ({self._settings.max_cost:g}), for answers have cost more than "
                    "estimated (benchmarks.gap.judge.prices). What has come is kept; raise max_cost and give the same "
                    "command again."
                )
            reply = chat.complete(body_of(item, self._settings))
            self._store.add(key, reply)
            budget.charge(price, reply, self._settings.prices)
        except Exception:  # at once, before this thread takes the next item
            chat.stop()
            raise
        return reply

    def _say_estimate(self, count: int, missing: Sequence[Item]) -> None:
        bill = self._estimate(missing)
        print(
            f"judge {self.name}: {count - bill.answers:,} of {count:,} questions are answered in "
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
    """Hex sha256 of all that decides an answer: address and request, the image in it by its own sha256."""
    image = hashlib.sha256(item.evidence).hexdigest() if isinstance(item.evidence, bytes) else ""
    content = [settings.base_url.rstrip("/"), _body(item, settings, image)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def body_of(item: Item, settings: Endpoint) -> dict[str, Any]:
    """A request of the chat-completions protocol; the image as a data: URL."""
    image = base64.b64encode(item.evidence).decode() if isinstance(item.evidence, bytes) else ""
    return _body(item, settings, f"data:image/png;base64,{image}")


def _body(item: Item, settings: Endpoint, image: str) -> dict[str, Any]:
    prompt = prompt_of(item)
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.user}]
    if isinstance(item.evidence, bytes):
        content.append({"type": "image_url", "image_url": {"url": image, "detail": settings.detail}})
    messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
    sampling = {"temperature": TEMPERATURE, "seed": settings.seed, "max_tokens": settings.max_tokens}
    return {"model": settings.model, "messages": messages, **sampling}
