"""The interface of arms: prefill a prompt without a prefix cache, decode some tokens, and time both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class ArmError(Exception):
    """An arm cannot run, or failed; the message is shown to the user."""


@dataclass(frozen=True)
class TimedRun:
    """Times of a prompt and a reply, in seconds of wall-clock time for the caller."""

    first_s: float
    """From the request to the first token."""
    rest_s: float
    """From the first token to the last."""
    read: int
    """Tokens of the prompt that were computed, and not taken from a prefix cache."""


class Runner(Protocol):
    """A model loaded by one program."""

    @property
    def how(self) -> str:
        """Precision, path and special settings; known after the first run."""

    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """Clear the cache, prefill `ids`, and decode `tokens` tokens greedily.

        Stop tokens do not end the reply.
        """


@runtime_checkable
class DefaultRunner(Runner, Protocol):
    """A program that can also run with its default settings."""

    def run_default(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """As `run`, but with the program's default sampling and other default settings."""
