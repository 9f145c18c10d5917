"""Errors in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`.

Clients such as OpenAI's own library repeat a request after 408, 409, 429 and 5xx, so a wrong request never has one of
these.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

from llmcli.errors import (
    CheckpointError,
    LlmcliError,
    OutOfMemoryError,
    PromptTooLongError,
    UnsupportedModelError,
    UsageError,
)
from llmcli.server.scheduler.work import OverloadedError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    431: "invalid_request_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class ApiError(LlmcliError):
    """A request that cannot be answered."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        """`param` is the field at fault, `code` a word for programs."""
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def value(self) -> dict[str, object]:
        """The error as JSON values."""
        kind = _TYPES.get(self.status, "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The error as a whole response."""
        more = {"Retry-After": "1"} if self.status == 503 else {}
        more |= {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return JSONResponse(self.value, self.status, {**more, **(headers or {})})


def api_error(error: Exception) -> ApiError:
    """`error` for a client: a fault of the request names what is wrong, a fault of the program says only that."""
    match error:
        case ApiError():
            return error
        case PromptTooLongError():
            return ApiError(str(error), code="context_length_exceeded")
        case UsageError():
            return ApiError(str(error))
        case OverloadedError():
            return ApiError(str(error), status=503, code="overloaded")
        case OutOfMemoryError():
            return ApiError(str(error), status=500, code="out_of_memory")
        case UnsupportedModelError():
            return ApiError(str(error), status=501)
        case CheckpointError() | LlmcliError():
            return ApiError(str(error))
    return ApiError("The server failed to answer this request. Its own output says more.", status=500)
