"""Who may send requests over TCP: the API key, the names of this server, and the origins of web pages.

Web pages in a browser on this machine reach 127.0.0.1 too. Their requests have an `Origin`, and after DNS rebinding a
`Host` that is not ours: both are refused. The private socket needs none of this, because its file mode protects it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmcli.errors import UsageError
from llmcli.server.http.errors import ApiError

LARGEST_BODY = 10 << 20
"""The most bytes of a request's body."""
LARGEST_HEADERS = 64 << 10
"""The most bytes of a request's line and headers."""
_OPEN = ("/health",)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """The rules of a listening address."""

    api_key: str | None = None
    hosts: tuple[str, ...] = _LOOPBACK
    """The names by which clients may call this server; empty: any."""
    origins: tuple[str, ...] = ()
    """The web pages that may use it, as "https://example.org"; "*" is any."""

    @classmethod
    def of(cls, api_key: str | None, origins: Sequence[str], *, local: bool) -> Access:
        """The rules for a server that only this machine can reach, or that others can reach too."""
        # Machines have many names, and a key protects those that others reach: a web page cannot know it.
        return cls(api_key, _LOOPBACK if local else (), tuple(origins))


class AccessMiddleware:
    """Refuses requests that break the rules of `Access`, and answers preflight requests of allowed origins."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        cors = self._cors(origin)
        try:
            self._check_host(headers)
            self._check_origin(origin, headers.get("host", ""))
            if cors and scope["method"] == "OPTIONS":
                await _preflight(headers, cors)(scope, receive, send)
                return
            if scope["path"] not in _OPEN:
                self._check_key(headers)
        except ApiError as error:
            await error.response(cors)(scope, receive, send)
            return
        await self._app(scope, receive, _with_headers(send, cors) if cors else send)

    def _check_host(self, headers: Headers) -> None:
        hosts = self._access.hosts
        values = headers.getlist("host")
        name = _host_name(values[0]) if len(values) == 1 else None
        if hosts and name not in hosts:
            raise ApiError(
                f"This server answers requests to {', '.join(hosts)} only, not to {', '.join(values) or 'no host'!r}.",
                status=403,
                code="host_not_allowed",
            )

    def _check_origin(self, origin: str | None, host: str) -> None:
        if origin is None or origin in self._access.origins or "*" in self._access.origins:
            return
        # A page that this server itself has sent.
        if urlsplit(origin).netloc == host and _host_name(host) in self._access.hosts:
            return
        raise ApiError(
            f"Web pages of {origin} may not use this server; --cors-origin allows it.",
            status=403,
            code="origin_not_allowed",
        )

    def _check_key(self, headers: Headers) -> None:
        wanted = self._access.api_key
        if wanted is None:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Compared in constant time, so that the time tells nothing about the key.
        if not hmac.compare_digest(given.encode(), wanted.encode()):
            raise ApiError(
                "The API key is missing or wrong; send it as Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
            )

    def _cors(self, origin: str | None) -> dict[str, str]:
        if origin is None or not ({origin, "*"} & set(self._access.origins)):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


class SizeLimitMiddleware:
    """Refuses headers of more than `LARGEST_HEADERS` bytes, and bodies of more than `most`, before they are in memory.

    The connection stays open: what the client still sends is thrown away, until its time for a request is over. Closing
    it at once would reset it, and the client could lose the answer.
    """

    def __init__(self, app: ASGIApp, most: int = LARGEST_BODY) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = ApiError(f"A body can have {self._most} bytes.", status=413, code="body_too_large")
        line = len(scope["raw_path"]) + len(scope["query_string"])
        # The parser's own limit is for headers that come in several pieces.
        if line + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > LARGEST_HEADERS:
            error = ApiError(f"The headers of a request can have {LARGEST_HEADERS} bytes.", status=431)
            await error.response()(scope, receive, send)
            return
        if not declared.isdecimal() or int(declared) > self._most:
            await too_large.response()(scope, receive, send)
            return
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._most:
                raise too_large
            return message

        await self._app(scope, counted, send)


def _host_name(host: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    if set(host) & set("/?#@\\"):
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _preflight(headers: Headers, cors: dict[str, str]) -> ASGIApp:
    from starlette.responses import Response

    allowed = {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
        "Access-Control-Max-Age": "600",
    }
    return Response(status_code=204, headers={**cors, **allowed})


def _with_headers(send: Send, more: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(more)
        await send(message)

    return sending


def check_origins(origins: Iterable[str]) -> None:
    """Raise `UsageError` unless each of `origins` is "*" or has the form "https://example.org"."""
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and (not parts.scheme or not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}"):
            raise UsageError(f"--cors-origin must have the form https://example.org or be *, not {origin!r}.")
