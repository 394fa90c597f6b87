"""What can go wrong for us. What happens to a request on the wire is a `Status` in a column, never an exception."""

from __future__ import annotations


class LlmgenError(Exception):
    """Base of the errors that the command line prints as one line without a traceback; `exit_code` is contract.md's."""

    exit_code = 1


class ConfigError(LlmgenError):
    """A configuration that cannot work: names the key, the value and what would be right. Raised before any packet."""

    exit_code = 2


class TargetError(LlmgenError):
    """The target cannot be reached, or is not what the configuration says."""

    exit_code = 5


class LoadingError(TargetError):
    """The target answers, but says that it is still loading its model."""


class WorkerError(LlmgenError):
    """A worker process died, stopped or could not start."""

    exit_code = 4


class DiskError(LlmgenError):
    """The disk was full before the load began."""

    exit_code = 4


class RecordError(LlmgenError):
    """A run directory is missing, damaged or of a newer schema."""

    exit_code = 2
