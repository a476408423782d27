"""Errors that tell a user the file, the record and the mend in one paragraph."""


class HermesflowError(ValueError):
    """Base of all errors a user can mend; the CLI prints its text alone, without a traceback."""


class ConfigError(HermesflowError):
    """A config file is wrong."""


class DataError(HermesflowError):
    """A data file, or a record in it, is wrong."""


class ArtifactError(HermesflowError):
    """An artifact of an earlier step is missing, truncated or of another kind."""
