"""An OpenAI-compatible chat-completions endpoint: repeats, waits, and errors that name what to mend.

The key is read from the environment, sent in one header, and appears nowhere else: what the endpoint says is stripped
of it before it is quoted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Self

import openai
import tenacity

from hermesflow.config.judges import Endpoint, check_endpoint
from hermesflow.core.errors import ConfigError, JudgeError
from hermesflow.evaluation.judges.pacing import Pacer, retry_after
from hermesflow.evaluation.judges.replies import Reply

_REPEATED = (408, 409, 425, 429)
_OUT_OF_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_REFUSALS = ("content_filter", "content_policy_violation", "moderation_blocked")
"""Codes of an error 400 that says no to what is in the image or the text."""
_QUOTED = 300  # characters of what the endpoint says that an error repeats


class _Repeat(Exception):
    """A request that may succeed if it is sent again; the text is the reason."""


class Stopped(Exception):
    """A request that was not sent, or not sent again, because another one has failed for good."""


class Chat:
    """A connection that several threads may use; a context manager."""

    def __init__(self, settings: Endpoint) -> None:
        """Read the key.

        Raises:
            ConfigError: no key, or an address that is none.
        """
        check_endpoint(settings)
        self._settings = settings
        self._key = _key_of(settings)
        self._stopped = threading.Event()
        self._pacer = Pacer(settings.pace.requests_per_minute, sleep=self._stopped.wait)
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            timeout=settings.pace.timeout,
            max_retries=0,  # repeats wait as `pace` says, and end with `stop`
            http_client=openai.DefaultHttpxClient(follow_redirects=False),  # the key goes nowhere else
        )
        self._create: Any = self._client.chat.completions.with_raw_response.create

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """End all waiting, of all threads; nothing is sent any more."""
        self._stopped.set()

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """Send one request, again where that may help.

        Args:
            body: of the request, as the protocol has it.

        Raises:
            JudgeError: the endpoint says no for good, or did not answer as often as `pace.attempts`.
            Stopped: by `stop`.
        """
        pace = self._settings.pace
        backoff = tenacity.wait_random_exponential(multiplier=pace.first_wait, max=pace.longest_wait)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Repeat),
            stop=tenacity.stop_after_attempt(pace.attempts),
            wait=backoff,  # a wait that the endpoint asks for is the pacer's: it holds all threads
            sleep=tenacity.sleep_using_event(self._stopped),
            reraise=True,
        )
        try:
            return retrying(self._once, body)
        except _Repeat as last:
            raise JudgeError(
                f"{self._place}: no answer after {pace.attempts} requests; the last: {last}. Answers so far are kept "
                f"in {self._settings.cache}: give the same command again when the endpoint is well, or raise "
                "benchmarks.gap.judge.pace.attempts; if it never answers, correct benchmarks.gap.judge.base_url."
            ) from None

    @property
    def _place(self) -> str:
        return f"judge {self._settings.model} at {self._settings.base_url}"

    def _once(self, body: Mapping[str, Any]) -> Reply:
        self._pacer.wait()
        if self._stopped.is_set():
            raise Stopped
        try:
            response = self._create(**body, extra_headers={} if self._key else {"Authorization": openai.omit})
        except openai.APITimeoutError:
            raise _Repeat(f"nothing came within {self._settings.pace.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _Repeat(self._clean(f"{type(error.__cause__).__name__}: {error.__cause__}")) from None
        except openai.APIStatusError as error:
            refused = error  # handled outside: what it says may hold the key, and tracebacks print what was handled
        else:
            return self._read(response)
        return self._refused(refused)

    def _read(self, response: Any) -> Reply:
        try:
            answer = response.parse()
            choice = answer.choices[0]
            text, refusal = choice.message.content or "", choice.message.refusal or ""
            ended = getattr(choice, "finish_reason", None)
            if not isinstance(text, str) or not isinstance(refusal, str) or ended == "error":
                raise TypeError("no text, or a model that broke off, as some gateways say it")
            refused = bool(refusal) or ended == "content_filter"
            model = self._hide(str(getattr(answer, "model", None) or self._settings.model))
            return Reply(self._hide(refusal or text), refused, model, *_usage(answer.usage), cut=ended == "length")
        except (ValueError, IndexError, TypeError, AttributeError, openai.APIError):
            raise _Repeat(f"HTTP 200 without a chat completion: {self._clean(response.text)!r}") from None

    def _refused(self, error: openai.APIStatusError) -> Reply:
        """A refusal where the content is the reason.

        Raises:
            _Repeat: the endpoint may answer later.
            JudgeError: it will not.
        """
        status, code = error.status_code, error.code or error.type
        message = error.body.get("message") if isinstance(error.body, dict) else error.response.text
        text = self._clean(str(message)) or "(no text)"
        if status == 400 and code in _REFUSALS:
            return Reply(text, True, None, 0, 0)
        problem = f"HTTP {status}: {text}"
        if status in _REPEATED or status >= 500:
            if code in _OUT_OF_CREDIT:
                raise JudgeError(f"{self._place}: {problem} The account has no credit left: add some. {self._again}")
            after = retry_after(error.response.headers.get("Retry-After"))
            if after is not None and after > self._settings.pace.longest_wait:
                raise JudgeError(
                    f"{self._place}: {problem} It asks to wait {after:.0f} s, more than "
                    f"benchmarks.gap.judge.pace.longest_wait "
                    f"({self._settings.pace.longest_wait:g} s): raise that, or come back then. {self._again}"
                )
            if after is not None:
                self._pacer.hold(after)
            raise _Repeat(problem)
        raise JudgeError(f"{self._place}: {self._mend(status, problem)} {self._again}")

    @property
    def _again(self) -> str:
        return f"Answers so far are kept in {self._settings.cache}; the same command goes on with the rest."

    def _mend(self, status: int, problem: str) -> str:
        settings = self._settings
        if status == 401:  # its text is not quoted: endpoints repeat parts of the key there
            if settings.key_variable is None:
                return "HTTP 401: it wants a key. Name its environment variable in benchmarks.gap.judge.key_variable."
            return (
                f"HTTP 401: it does not know the key. Set {settings.key_variable} (benchmarks.gap.judge.key_variable) "
                "to a valid one, or correct benchmarks.gap.judge.base_url if the key is another endpoint's."
            )
        if status == 403:
            return (
                f"{problem} The key that benchmarks.gap.judge.key_variable ({settings.key_variable}) names may not "
                "use this model from here: give its project access, or name another benchmarks.gap.judge.model."
            )
        if status == 404:
            return (
                f"{problem} There is no such model (benchmarks.gap.judge.model: {settings.model}) or no such address: "
                "benchmarks.gap.judge.base_url is what "
                "comes before /chat/completions and mostly ends in /v1."
            )
        if 300 <= status < 400:
            return f"{problem} It is elsewhere: correct benchmarks.gap.judge.base_url (the key is not sent after it)."
        return f"{problem} Correct what it complains about in section judge of the config."

    def _clean(self, text: str) -> str:
        """One short line without the key."""
        return " ".join(self._hide(text).split())[:_QUOTED]

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text


def _usage(usage: object) -> tuple[int | None, int | None, int]:
    """Tokens sent and written, None where they are not reported, and those of the sent that were cached."""
    sent, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    return sent, written, min(cached or 0, sent or 0)


def _count(counts: object, name: str) -> int | None:
    count = getattr(counts, name, None)
    return count if isinstance(count, int) and count >= 0 else None


def _key_of(settings: Endpoint) -> str | None:
    name = settings.key_variable
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"benchmarks.gap.judge.key_variable: the environment variable {name} is not set. Set it to the key of "
            f"{settings.base_url}, or let benchmarks.gap.judge.key_variable be null where none is needed."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"benchmarks.gap.judge.key_variable: what is in {name} has characters that no key has. Copy it again."
        )
    return key
