"""The command line's computations besides replies: probabilities of given answers, scores of texts, comparisons."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmcli.engine.prefill import PrefillProgress
from llmcli.errors import LlmcliError, UsageError
from llmcli.inspection.evaluation.comparison_side import written
from llmcli.inspection.evaluation.text_score import TextScore
from llmcli.server.command_line.choices import compare_answers, may_think
from llmcli.server.command_line.compare import predictions, progress_to, prompt_of
from llmcli.server.command_line.reply import CommandReply
from llmcli.server.command_line.score import score_text
from llmcli.server.http.streams import Channel, EventStream, json_object
from llmcli.server.internal import refusal
from llmcli.server.scheduler.work import Piece, ReadSoFar, Result, Work
from llmcli.server.service import Service
from llmcli.server.values import to_json
from llmcli.server.wire import (
    ContinuedText,
    GenerateRequest,
    PredictedText,
    ScoredText,
    begin_value,
    line,
    read_request,
    read_text_request,
)

# Memory for rows of log-probabilities that a client has not taken yet; two rows of any size.
_ROWS_BYTES = 16 << 20


class Computed:
    """The endpoints `/internal/choices`, `/internal/score`, `/internal/continuation` and `/internal/predictions`."""

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
            asked = read_text_request(ScoredText, await json_object(request, surrogates=True))
        except LlmcliError as error:
            return refusal(service, error)
        return self._stream([], *service.start(lambda progress: score_text(ready.loaded, asked, progress)))

    async def continuation(self, request: Request) -> Response:
        """Encode a prompt and continue it greedily."""
        service, ready = self._service, self._service.needed()
        try:
            asked = read_text_request(ContinuedText, await json_object(request, surrogates=True))
            begun = await service.prepare(lambda: prompt_of(ready.loaded, asked))
        except LlmcliError as error:
            return refusal(service, error)
        begin = await service.prepare(lambda: line({"event": "begin", "value": to_json(begun)}))
        ids = [token.id for token in begun.prompt]
        return self._stream(
            [begin],
            *service.start_parts(
                lambda deliver: written(ready.loaded, ids, asked.max_tokens, progress_to(deliver)),
            ),
        )

    async def predictions(self, request: Request) -> Response:
        """Send the log-probabilities of the whole vocabulary at each token of a text."""
        service, ready = self._service, self._service.needed()
        try:
            asked = read_text_request(PredictedText, await json_object(request, surrogates=True))
        except LlmcliError as error:
            return refusal(service, error)
        rows = max(2, _ROWS_BYTES // (4 * ready.loaded.tokenizer.vocab_size))
        return self._stream(
            [], *service.start_parts(lambda deliver: predictions(ready.loaded, asked, deliver), most_waiting=rows)
        )

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
            elif isinstance(event, Piece):
                yield line({"event": "row", "value": to_json(event.value), "bytes": len(event.data)})
                yield event.data
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
