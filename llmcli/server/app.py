"""The application: its paths, and errors in one shape everywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmcli.server.computed import Computed
from llmcli.server.http.errors import ApiError
from llmcli.server.http.security import Access, AccessMiddleware, SizeLimitMiddleware
from llmcli.server.internal import Internal
from llmcli.server.metrics import CONTENT_TYPE
from llmcli.server.openai.chat import ChatCompletions
from llmcli.server.openai.completions import Completions
from llmcli.server.openai.decisions import Decisions
from llmcli.server.openai.embeddings import Embeddings
from llmcli.server.openai.models import Models
from llmcli.server.openai.tokens import Tokens
from llmcli.server.request_log import RequestLog, RequestLogMiddleware
from llmcli.server.service import Service
from llmcli.server.translations.messages import Messages
from llmcli.server.translations.responses import Responses

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
Path: TypeAlias = tuple[str, str, Endpoint]
"""A method, a path, and what answers it."""


def public_app(service: Service, access: Access, log: RequestLog | None = None) -> Starlette:
    """The application for TCP."""
    paths = [*_paths(service), *_command_paths(service, Internal(service))]
    return _app(service, paths, [*_log(log), Middleware(AccessMiddleware, access)])


def private_app(service: Service, log: RequestLog | None = None) -> Starlette:
    """The application for the private socket, over which the server can be stopped."""
    internal = Internal(service)
    more = [("GET", "/internal/status", internal.status), ("POST", "/internal/stop", internal.stop)]
    return _app(service, [*_paths(service), *_command_paths(service, internal), *more], _log(log))


def _command_paths(service: Service, internal: Internal) -> list[Path]:
    """The protocol of the command line."""
    computed = Computed(service, internal.failed)
    return [
        ("GET", "/internal/server", internal.server),
        ("POST", "/internal/generate", internal.generate),
        ("POST", "/internal/cancel", internal.cancel),
        ("POST", "/internal/choices", computed.choices),
        ("POST", "/internal/score", computed.score),
        ("POST", "/internal/continuation", computed.continuation),
        ("POST", "/internal/predictions", computed.predictions),
    ]


def _log(log: RequestLog | None) -> list[Middleware]:
    return [] if log is None else [Middleware(RequestLogMiddleware, log)]


def _paths(service: Service) -> list[Path]:
    models, tokens, messages = Models(service), Tokens(service), Messages(service)

    async def health(request: Request) -> Response:
        if service.ready is None:
            raise ApiError("The model is being loaded.", status=503, code="loading")
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        scheduler = service.needed().scheduler
        text = scheduler.counts.text(scheduler.load(), scheduler.kept.nbytes)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return [
        ("GET", "/health", health),
        *([("GET", "/metrics", metrics)] if service.metrics else []),
        ("GET", "/v1/models", models.listed),
        ("GET", "/v1/models/{name:path}", models.one),
        ("POST", "/v1/chat/completions", ChatCompletions(service).answer),
        ("POST", "/v1/completions", Completions(service).answer),
        ("POST", "/v1/responses", Responses(service).answer),
        ("POST", "/v1/messages", messages.answer),
        ("POST", "/v1/messages/count_tokens", messages.count),
        ("POST", "/v1/decisions", Decisions(service).answer),
        ("POST", "/v1/embeddings", Embeddings(service).answer),
        ("POST", "/tokenize", tokens.encode),
        ("POST", "/detokenize", tokens.decode),
        ("GET", "/tokenizer_info", tokens.info),
    ]


def _app(service: Service, paths: Sequence[Path], access: Sequence[Middleware]) -> Starlette:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        words = {404: f"There is no {path} here.", 405: f"{path} does not take {request.method}."}
        found = ApiError(words.get(error.status_code, str(error.detail)), status=error.status_code)
        return found.response(error.headers)

    return Starlette(
        routes=[Route(path, _guarded(service, endpoint), methods=[method]) for method, path, endpoint in paths],
        middleware=[*access, Middleware(SizeLimitMiddleware)],
        exception_handlers={HTTPException: refused},
    )


def _guarded(service: Service, endpoint: Endpoint) -> Endpoint:
    """`endpoint`, with an answer to every error."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:
            return service.error(error).response()

    return answer
