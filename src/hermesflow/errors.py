"""Errors that tell a user the file, the record and the mend in one paragraph."""

import os


class HermesflowError(ValueError):
    """Base of all errors a user can mend; the CLI prints its text alone, without a traceback."""

    status = 1
    """Exit status of the command."""


class ConfigError(HermesflowError):
    """A config file is wrong."""


class DataError(HermesflowError):
    """A data file, or a record in it, is wrong."""


class ArtifactError(HermesflowError):
    """An artifact of an earlier step is missing, truncated or of another kind."""


class Interrupted(HermesflowError):
    """A signal stopped the work after its state was saved: the same command goes on with it."""

    status = os.EX_TEMPFAIL  # 75: put it in the queue again
