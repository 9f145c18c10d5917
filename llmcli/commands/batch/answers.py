"""The answers to the lines of a batch: of a model in this process, or of a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from llmcli.commands.batch import input
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.errors import LlmcliError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.engine import Interruption
    from llmcli.engine.batch.batch import Request
    from llmcli.engine.batch.results import BatchReply, BatchStats
    from llmcli.server.registry import ServerState
    from llmcli.server.wire import GenerateRequest

# The most replies at a time of the CPU kernel, repeated here because importing it would import torch.
MOST_PARALLEL = 32
Report: TypeAlias = Callable[[int], None]
"""Called with the number of lines that have a result, whenever it has grown."""


@dataclass(frozen=True)
class BatchInput:
    """All input lines, and the options for answering them."""

    lines: Sequence[input.Line]
    model: ModelOptions
    prompt: PromptOptions
    variables: Mapping[str, object]
    sampling: SamplingOptions


@dataclass(frozen=True)
class BatchResult:
    """The outcome of a line, its "id", and the seed of its reply."""

    index: int
    """The line's."""
    outcome: BatchReply | LlmcliError
    id: input.Id
    seed: int | None


class BatchAnswers(Protocol):
    """Answers lines in order, several at a time."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def stats(self) -> BatchStats:
        """The totals so far."""

    def run(self, first: int, interruption: Interruption, report: Report) -> Iterator[BatchResult]:
        """The result of each line from `first` on, in order, until a request of `interruption`."""


class LocalAnswers:
    """The answers of a model that this process loads."""

    def __init__(self, asked: BatchInput, checkpoint: Checkpoint, parallel: int | None) -> None:
        """Load the model; answer `parallel` lines at a time, by default as many as its kernel can."""
        from llmcli.commands.batch.prompts import BatchPrompts
        from llmcli.commands.shared.load_model import load_model

        loaded = load_model(checkpoint, asked.model, template=asked.prompt.chat_template)
        self.model = loaded.name
        self._lines = asked.lines
        self._prompts = BatchPrompts(loaded, asked.sampling, asked.prompt, asked.variables)
        self._engine = loaded.batch_engine(
            parallel=parallel,
            context_length=asked.model.context,
            threads=asked.model.threads,
            chat=self._prompts.are_chats,
        )
        if parallel is not None and parallel > self._engine.parallel:
            terminal.note(f"Replies are generated {self._engine.parallel} at a time here: {self._engine.stats.path}.")

    @property
    def stats(self) -> BatchStats:
        """See `BatchAnswers`."""
        return self._engine.stats

    @property
    def parallel(self) -> int:
        """How many lines are answered at a time."""
        return self._engine.parallel

    def run(self, first: int, interruption: Interruption, report: Report) -> Iterator[BatchResult]:
        """See `BatchAnswers`."""
        for result in self.answer(self._lines[first:], interruption):
            report(result.index + 1)
            yield result

    def answer(self, lines: Iterable[input.Line], interruption: Interruption) -> Iterator[BatchResult]:
        """The result of each of `lines`, which are taken as they are needed, in their order."""
        prompts = self._prompts
        begun: deque[int] = deque()

        def request(line: input.Line) -> Request | LlmcliError:
            begun.append(line.index)
            return prompts.request(line)

        for outcome in self._engine.run(map(request, lines), interruption):
            index = begun.popleft()
            yield BatchResult(index, outcome, prompts.ids.pop(index, None), prompts.seeds.pop(index, None))


class ServedAnswers:
    """The answers of a running server."""

    def __init__(self, asked: BatchInput, server: ServerState, parallel: int | None) -> None:
        from llmcli.client.batch import ServedBatch

        self.model = server.model
        self._asked = asked
        self._batch = ServedBatch(server, parallel or MOST_PARALLEL, terminal.note)

    @property
    def stats(self) -> BatchStats:
        """See `BatchAnswers`."""
        return self._batch.stats

    def run(self, first: int, interruption: Interruption, report: Report) -> Iterator[BatchResult]:
        """See `BatchAnswers`."""
        names: list[input.Id] = []

        def request(line: input.Line) -> GenerateRequest | LlmcliError:
            names.append(None)
            try:
                value = input.parsed(line)
                names[-1] = input.id_of(value)
                return self._request(value)
            except LlmcliError as error:
                return error

        results = self._batch.run(map(request, self._asked.lines[first:]), interruption)
        for number, result in enumerate(results):
            report(first + number + 1)
            yield BatchResult(first + number, result.outcome, names[number], result.seed)

    def _request(self, value: Mapping[str, object]) -> GenerateRequest:
        from llmcli.server.wire import GenerateRequest

        asked = self._asked
        task = input.task(value, asked.sampling)
        return GenerateRequest(
            task.prompt_request(asked.prompt, asked.variables),
            task.sampling.settings(),
            tuple(task.sampling.logit_bias or ()),
            context=asked.model.context,
        )
