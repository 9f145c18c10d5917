"""Decoding: prompt ids in, a stream of events out."""

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
from llmcli.engine.sampling_params import SamplingParams

if TYPE_CHECKING:
    from llmcli.engine.conversation import Conversation
    from llmcli.engine.engine import Engine
    from llmcli.engine.sampler import Sampler

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


def __getattr__(name: str) -> object:
    # What computes needs torch; settings and events must be there before it, to be checked at once.
    if name in ("Conversation", "Engine", "Sampler"):
        from importlib import import_module

        return getattr(import_module(f"llmcli.engine.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
