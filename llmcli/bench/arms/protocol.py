"""What every arm can do: read a prompt afresh, write some tokens, and say how long each took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class ArmError(Exception):
    """An arm cannot run, or broke off; the message is for the user."""


@dataclass(frozen=True)
class TimedRun:
    """How long a prompt and a reply took, in seconds of wall-clock time as the caller sees them."""

    first_s: float
    """From the request to the first token."""
    rest_s: float
    """From the first token to the last."""
    read: int
    """Tokens of the prompt that were really read."""
    unread_bytes: int = 0
    """Of weights, while the tokens after the first were written, because nothing depended on them."""


class Runner(Protocol):
    """A model, loaded by one program."""

    @property
    def how(self) -> str:
        """How it computes: precision, path, settings of its own. Known after the first run."""

    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """Forget what was read before, read `ids`, and write `tokens`, each time the most probable one.

        Nothing ends the reply early.
        """


@runtime_checkable
class DefaultRunner(Runner, Protocol):
    """A program that can also write as it does where a user sets nothing."""

    def run_default(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """As `run`, but with the program's default sampling settings and everything that it uses by default."""
