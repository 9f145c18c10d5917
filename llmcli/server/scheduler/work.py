"""Work for the scheduler: replies, and other computations that connections wait for."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from llmcli.engine.events import Event
from llmcli.engine.sampling.params import SamplingParams
from llmcli.errors import LlmcliError
from llmcli.text.reasoning import ReplyStart

if TYPE_CHECKING:
    from llmcli.engine.guided.constraint import Constraint
    from llmcli.engine.logprobs import TokenLogprobs


class OverloadedError(LlmcliError):
    """The server takes no more work now."""


class CancelledError(LlmcliError):
    """Nothing waits for this computation any more."""


@dataclass(frozen=True)
class ReplyRequest:
    """A reply to generate, and what is to be known about its tokens."""

    ids: tuple[int, ...]
    """The prompt."""
    params: SamplingParams
    is_chat: bool = False
    """The prompt is in the chat template: the reply also ends with the model's turn, and may begin with a thought."""
    begun: tuple[int, ...] = ()
    """The first tokens of a reply to continue: they are read with the prompt and come as its first steps."""
    start: ReplyStart | None = None
    """Where a reply in a chat begins; by default read from the end of the prompt."""
    constraint: Constraint | None = None
    """The form of the answer; its `begin` has been called."""
    probabilities: bool = False
    top: int = 0
    context: int | None = None
    """The most tokens of prompt and reply; by default the server's limit."""
    ends: frozenset[int] = frozenset()
    """Further tokens that end the reply."""
    ignores_end: bool = False
    """Whether the model's own stop tokens do not end the reply."""
    prompt_top: int | None = None
    """Compute the log-probability of each token of the prompt, and this many candidates; None: do not."""
    writes: bool = True
    """Whether there is a reply; otherwise the prompt is only read."""


@dataclass(frozen=True)
class ReadSoFar:
    """Tokens of a long prompt that have been read."""

    done: int
    total: int


@dataclass(frozen=True)
class PromptLogprobs:
    """The log-probabilities of the tokens of a prompt, each given those before it; None for the first."""

    tokens: tuple[TokenLogprobs | None, ...]


@dataclass(frozen=True)
class Failed:
    """The work has failed."""

    error: Exception


@dataclass(frozen=True)
class Result:
    """What a computation has returned."""

    value: object


@dataclass(frozen=True)
class Piece:
    """A part of what a computation gives, before its result."""

    value: object
    data: bytes


WorkEvent: TypeAlias = Event | ReadSoFar | PromptLogprobs | Failed | Piece | Result
"""What a connection receives; `Finish`, `Failed` and `Result` are the last. Texts contain thoughts and their marks."""
Deliver: TypeAlias = Callable[[Sequence[WorkEvent]], None]
"""Called in the scheduler's thread; must not wait for a client."""


class Work:
    """Something that a connection waits for."""

    def __init__(self, deliver: Deliver) -> None:
        self.deliver = deliver
        self.cancelled = False

    def cancel(self) -> None:
        """Nothing waits for it any more: it ends before its next pass. Any thread may call this."""
        self.cancelled = True


class ReplyWork(Work):
    """A reply."""

    def __init__(self, request: ReplyRequest, deliver: Deliver) -> None:
        super().__init__(deliver)
        self.request = request


class Computation(Work):
    """A computation in parts: an iterator that is advanced between passes, and returns the result."""

    def __init__(
        self,
        parts: Iterator[object],
        deliver: Deliver,
        *,
        ends_itself: bool = False,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """With `ends_itself`, its parts end it when it is cancelled; otherwise it is dropped.

        While `has_room` is false, its next part waits; `Scheduler.wake` is called when that has changed.
        """
        super().__init__(deliver)
        self.parts, self.ends_itself, self._has_room = parts, ends_itself, has_room

    @property
    def can_continue(self) -> bool:
        """Whether there is something to do for it now."""
        return self.cancelled or self._has_room()


def once(compute: Callable[[], object]) -> Generator[None, None, object]:
    """A computation in a single part."""
    value = compute()
    yield
    return value
