"""The private socket's computations besides replies: the probabilities of given answers, and the score of a text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.prefill import PrefillProgress
from llmcli.errors import LlmcliError, UsageError
from llmcli.inspection.evaluation.text_score import TextScore
from llmcli.server.command_line.choices import compare_answers, may_think
from llmcli.server.command_line.reply import CommandReply
from llmcli.server.command_line.score import score_text
from llmcli.server.http.streams import Channel, EventStream, json_object
from llmcli.server.internal import refusal
from llmcli.server.scheduler.work import ReadSoFar, Result, Work
from llmcli.server.service import Service
from llmcli.server.values import to_json
from llmcli.server.wire import GenerateRequest, begin_value, line, read_request, read_scored_text


class Computed:
    """The endpoints `/internal/choices` and `/internal/score`."""

    def __init__(self, service: Service, failed: Callable[[Exception], bytes]) -> None:
        """`failed` gives the last line after an error."""
        self._service, self._failed = service, failed

    async def choices(self, request: Request) -> Response:
        """Compare answers to a prompt; without a thought, a model that may think only says so."""
        service, ready = self._service, self._service.needed()
        try:
            given = await json_object(request, surrogates=True)
            asked = read_request(given.get("request"))
            answers, thought = _answers(given)
            reply = await service.prepare(lambda: CommandReply(ready.loaded, asked))
            context = _context(asked, ready.scheduler.context_length)
        except LlmcliError as error:
            return refusal(service, error)
        thinks = may_think(ready.loaded, reply, no_thinking=asked.prompt.no_thinking)
        begin = begin_value(reply.begin(context_length=context, path=ready.scheduler.path)) | {"may_think": thinks}
        if thinks and thought is None:
            return self._stream([line(begin)])

        def compute(progress: PrefillProgress) -> object:
            readable = given.get("readable") is True
            return compare_answers(
                ready.loaded,
                reply,
                answers,
                thought or (),
                context_length=context,
                readable=readable,
                progress=progress,
            )

        return self._stream([line(begin)], *service.start(compute))

    async def score(self, request: Request) -> Response:
        """Score a text."""
        service, ready = self._service, self._service.needed()
        try:
            asked = read_scored_text(await json_object(request, surrogates=True))
        except LlmcliError as error:
            return refusal(service, error)
        return self._stream([], *service.start(lambda progress: score_text(ready.loaded, asked, progress)))

    def _stream(self, first: Iterable[bytes], work: Work | None = None, channel: Channel | None = None) -> Response:
        works = [] if work is None else [work]
        return EventStream(self._lines(first, channel), works, media_type="application/x-ndjson", failed=self._failed)

    async def _lines(self, first: Iterable[bytes], channel: Channel | None) -> AsyncIterator[bytes]:
        for each in first:
            yield each
        if channel is None:
            return
        token_bytes = self._service.needed().loaded.tokenizer.token_bytes
        async for event in channel.events():
            if isinstance(event, ReadSoFar):
                yield line({"event": "progress", "done": event.done, "total": event.total})
            elif isinstance(event, Result):
                value = event.value
                pieces = {str(token): token_bytes(token).decode("latin-1") for token in _tokens(value)}
                yield line({"event": "result", "value": to_json(value), "bytes": pieces})


def _tokens(value: object) -> set[int]:
    """The tokens of a scored text, whose values have no bytes."""
    if not isinstance(value, TextScore):
        return set()
    return {token.id for token in value.tokens} | {each.id for token in value.tokens for each in token.top}


def _answers(given: dict[str, Any]) -> tuple[list[str], list[int] | None]:
    """The answers and the thought of a request.

    Raises:
        UsageError: they have the wrong type.
    """
    answers, thought = given.get("answers"), given.get("thought")
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise UsageError('"answers" must be a list of texts.')
    if thought is not None and not (isinstance(thought, list) and all(type(token) is int for token in thought)):
        raise UsageError('"thought" must be a list of token ids, or null.')
    return answers, thought


def _context(asked: GenerateRequest, most: int) -> int:
    return min(asked.context or most, most)
