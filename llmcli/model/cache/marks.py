"""The memory of recurrent layers: states, and marks, of which a text keeps some to go back to. Needs no torch."""

from __future__ import annotations

from llmcli.model.config import ModelConfig

_MOST_MARKS = 8
_MOST_BYTES = 512 << 20
# However large a state is, so that a reply can be generated anew and a rejected proposal be dropped.
_FEWEST_MARKS = 2


def most_marks(mark_bytes: int) -> int:
    """How many marks a text keeps that take `mark_bytes` each: 8, or what fits in 512 MiB, but at least 2."""
    if mark_bytes == 0:
        return 0
    return max(_FEWEST_MARKS, min(_MOST_MARKS, _MOST_BYTES // mark_bytes))


def memory_of_states(config: ModelConfig, bytes_per_value: int) -> int:
    """The most bytes that states take: those of the text, those that a pass computes, all marks and the brief one."""
    one, mark = config.state_bytes(bytes_per_value), config.mark_bytes(bytes_per_value)
    return 2 * one + (most_marks(mark) + 1) * mark
