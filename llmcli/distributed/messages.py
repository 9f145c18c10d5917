"""What rank 0 tells the other ranks, as JSON: each message is the name of an operation and its arguments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from llmcli.checkpoint.load_packed import Packing

Message: TypeAlias = tuple[str, tuple[Any, ...]]
"""The name of an operation of `follower.Follower`, and its arguments."""


@dataclass(frozen=True)
class LoadOrder:
    """The model that ranks load, and how."""

    path: str
    dtype: str
    packing: Packing | None
    int8_cache: bool
    context: int | None
    stages: list[list[int]] | None
    """The first layer of each stage of a pipeline, and the one after its last; None: tensor parallelism."""
    fingerprint: str
    """Of the checkpoint's headers and samples of its files: all ranks must have the same files."""

    def as_arguments(self) -> tuple[Any, ...]:
        """The arguments of the message."""
        return tuple(asdict(self).values())


def encoded(name: str, arguments: Sequence[Any]) -> bytes:
    """A message as bytes."""
    return json.dumps([name, *arguments], separators=(",", ":")).encode()


def decoded(data: bytes) -> Message:
    """The message that was `encoded`."""
    name, *arguments = json.loads(data)
    return name, tuple(arguments)
