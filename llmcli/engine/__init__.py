"""Decoding: from the ids of a prompt to the events of a reply."""

from typing import TYPE_CHECKING

from llmcli.engine.events import (
    AttentionRow,
    Candidate,
    Event,
    Filter,
    Finish,
    FinishReason,
    Prefill,
    Read,
    SampledCandidate,
    Stats,
    Step,
)
from llmcli.engine.interrupt import Interruption
from llmcli.engine.sampling.params import SamplingParams

if TYPE_CHECKING:
    from llmcli.engine.conversation import Conversation
    from llmcli.engine.engine import Engine
    from llmcli.engine.sampling.sampler import Sampler

__all__ = [
    "AttentionRow",
    "Candidate",
    "Conversation",
    "Engine",
    "Event",
    "Filter",
    "Finish",
    "FinishReason",
    "Interruption",
    "Prefill",
    "Read",
    "SampledCandidate",
    "Sampler",
    "SamplingParams",
    "Stats",
    "Step",
]

_ON_FIRST_USE = {
    "Conversation": "llmcli.engine.conversation",
    "Engine": "llmcli.engine.engine",
    "Sampler": "llmcli.engine.sampling.sampler",
}


def __getattr__(name: str) -> object:
    # The engine and the sampler need torch, which takes seconds to import; settings are checked before it.
    if name in _ON_FIRST_USE:
        from importlib import import_module

        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
