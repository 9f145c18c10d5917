"""`GET /v1/models`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.model.parameters import parameters_of
from llmcli.server.service import Ready, Service


class Models:
    """The endpoints of the model that is served."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def listed(self, request: Request) -> Response:
        """All models."""
        return JSONResponse({"object": "list", "data": [_model(self._service.needed())]})

    async def one(self, request: Request) -> Response:
        """A model by its id, or by any name if requests may name any."""
        ready = self._service.needed()
        self._service.check_model(request.path_params["name"])
        return JSONResponse(_model(ready))


def _model(ready: Ready) -> dict[str, object]:
    loaded = ready.loaded
    parameters = sum(info.values for info in parameters_of(loaded.config).values())
    return {
        "id": loaded.name,
        "object": "model",
        "created": ready.created,
        "owned_by": "llmcli",
        "max_model_len": ready.scheduler.context_length,
        "meta": {
            "n_vocab": loaded.tokenizer.vocab_size,
            "n_ctx_train": loaded.config.context_length,
            "n_embd": loaded.config.hidden_size,
            "n_params": parameters,
            "size": sum(size for _, size, _ in ready.state.identity.files),
        },
    }
