"""Errors that tell a user the file, the record and the mend in one paragraph."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


class HermesflowError(ValueError):
    """Base of all errors a user can mend; the CLI prints its text alone, without a traceback."""

    status = 1
    """Exit status of the command."""


class ConfigError(HermesflowError):
    """A config file is wrong."""


class DataError(HermesflowError):
    """A data file, or a record in it, is wrong."""


class FetchError(HermesflowError):
    """Something cannot be had from the hub, or is not what the config pins."""


class JudgeError(HermesflowError):
    """An outside judge cannot be asked, or does not answer."""


class ArtifactError(HermesflowError):
    """An artifact of an earlier step is missing, truncated or of another kind."""


class NotFiniteError(HermesflowError):
    """A value that was computed is nan or infinite; nothing was changed by it."""


class Interrupted(HermesflowError):
    """A signal stopped the work after its state was saved: the same command goes on with it."""

    status = os.EX_TEMPFAIL  # 75: put it in the queue again


@contextmanager
def naming(what: str, mend: str = "") -> Iterator[None]:
    """Prefix a `NotFiniteError` raised in the block with what was being done, and append how to mend it."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{what}: {error} {mend}".rstrip()) from error


_DISK_FULL = re.compile(
    "No space left on device|Disk quota exceeded"
    r"|\d+ requested and \d+ written"  # numpy
    "|database or disk is full"  # sqlite
    "|inline_container.cc|PytorchStreamWriter"  # torch.save
)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is a library's way to say that a file could not be written to its end."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _DISK_FULL.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
