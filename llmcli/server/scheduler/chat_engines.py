"""Chats of the command line: each has an engine, whose KV cache holds the whole conversation with its replies.

A prompt of such a chat continues what its engine has computed, replies included, so that each turn has the bits that
one `llm chat` process gives it. Other replies are computed as if there had been nothing before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator

from llmcli.engine.engine import Engine
from llmcli.engine.events import Finish
from llmcli.engine.interrupt import Interruption
from llmcli.engine.speculative.decoder import SpeculationState
from llmcli.kernels.base import FastStep
from llmcli.loaded_model import LoadedModel
from llmcli.server.metrics import ReplyCounts
from llmcli.server.scheduler.work import Computation, Deliver, ReadSoFar, ReplyRequest

_MOST = 4
"""Chats that are kept. One that comes back after more others is read again from its beginning."""


class ChatEngines:
    """The engines of the last chats, by their names."""

    def __init__(self, loaded: LoadedModel, step: FastStep, counts: ReplyCounts) -> None:
        self._loaded, self._step, self._counts = loaded, step, counts
        self._engines: OrderedDict[tuple[str, int | None], Engine] = OrderedDict()

    def reply(self, name: str, request: ReplyRequest, deliver: Deliver) -> Computation:
        """The work for a reply in the chat called `name`."""

        def parts() -> Generator[None, None, None]:
            interruption = Interruption()
            engine = self._engine(name, request.context)
            events = engine.stream(
                request.ids,
                request.params,
                begun=request.begun,
                probabilities=request.probabilities,
                top=request.top,
                constraint=request.constraint,
                start=request.start,
                interruption=interruption,
                progress=lambda done, total: deliver([ReadSoFar(done, total)]),
            )
            for event in events:
                if isinstance(event, Finish):
                    self._counts.add(event.stats)
                deliver([event])
                interruption.requested = work.cancelled
                yield

        work = Computation(parts(), deliver, ends_itself=True)
        return work

    def _engine(self, name: str, context: int | None) -> Engine:
        key = name, context
        if key not in self._engines:
            loaded = self._loaded
            lookup = SpeculationState(lookup=True) if self._step.capabilities.most_each > 1 else None
            self._engines[key] = Engine(
                loaded.model,
                loaded.tokenizer,
                stop_ids=loaded.stop_ids,
                stop_texts=loaded.turn_end.texts,
                thinks=loaded.template is not None,
                context_length=context,
                step=self._step,
                speculation=lookup,
            )
            while len(self._engines) > _MOST:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]
