"""Decoding: prompt ids in, a stream of events out."""

from llmcli.engine.conversation import Conversation
from llmcli.engine.engine import Engine
from llmcli.engine.events import Candidate, Event, Finish, FinishReason, Prefill, Stats, Step
from llmcli.engine.interruption import Interruption
from llmcli.engine.params import SamplingParams
from llmcli.engine.sampler import Sampler

__all__ = [
    "Candidate",
    "Conversation",
    "Engine",
    "Event",
    "Finish",
    "FinishReason",
    "Interruption",
    "Prefill",
    "Sampler",
    "SamplingParams",
    "Stats",
    "Step",
]
