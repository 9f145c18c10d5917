"""All errors that a user can meet, and the exit code of each.

A message is one or two sentences: what happened, in which file, and what to do about it.
`cli.main` is the only place that turns these into text and an exit code.
"""

from __future__ import annotations


class LlmcliError(Exception):
    """Base class of all errors that a user can understand. Exit code 1 unless a subclass sets another."""

    exit_code = 1


class UsageError(LlmcliError):
    """The command line, a configuration file or a setting is invalid."""

    exit_code = 2


class ModelNotFoundError(LlmcliError):
    """No model of that name is on this machine, or it could not be fetched."""

    exit_code = 3


class CheckpointError(LlmcliError):
    """A model's files are broken or contradict each other."""

    exit_code = 4


class UnsupportedModelError(CheckpointError):
    """The files are valid, but this program cannot run that kind of model or format."""


class OutOfMemoryError(LlmcliError):
    """The model or its KV cache does not fit into memory."""

    exit_code = 5


class NotFiniteError(LlmcliError):
    """The model computed values that are not numbers: NaN or infinite."""

    def __init__(self, message: str, *, located: bool = False) -> None:
        """`located` says whether `message` already names the part of the model that the first such value comes from."""
        super().__init__(message)
        self.located = located


class RankError(LlmcliError):
    """A process that has a part of the model ended, does not answer, or has other files."""


class PromptTooLongError(LlmcliError):
    """The prompt does not fit the context. Nothing was generated, and the prompt was not cut."""

    exit_code = 6
