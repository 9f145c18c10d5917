"""`POST /v1/embeddings`: vectors of texts, from the mean of the hidden states or the last of them."""

from __future__ import annotations

import base64
import struct
from typing import cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from llmcli.inspection.residual.text_embedding import Pooling, text_embedding
from llmcli.server.http.errors import ApiError
from llmcli.server.http.streams import json_object
from llmcli.server.openai.completion_request import read_prompts
from llmcli.server.openai.fields import Fields
from llmcli.server.service import Service


class Embeddings:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """The vector of each text of a request, one after another."""
        service, loaded = self._service, self._service.needed().loaded
        fields = Fields(await json_object(request))
        model = fields.text("model")
        service.check_model(model)
        pooling, form = fields.text("pooling") or "last", fields.text("encoding_format") or "float"
        if pooling not in ("mean", "last"):
            raise ApiError(f"pooling must be mean or last, not {pooling!r}.", param="pooling")
        if form not in ("float", "base64"):
            raise ApiError(f"encoding_format must be float or base64, not {form!r}.", param="encoding_format")
        normalize = fields.flag("normalize", True)
        size = loaded.config.hidden_size
        fields.refuse_unless("dimensions", size, why=f"the vectors have {size}")
        texts = await service.prepare(lambda: read_prompts(fields, loaded.tokenizer, "input"))
        fields.end()
        if not all(text.ids for text in texts):
            raise ApiError("input has an empty text.", param="input")
        data = []
        for index, text in enumerate(texts):
            vector = await service.compute(
                lambda progress, text=text: text_embedding(  # type: ignore[misc]
                    loaded.model,
                    text.ids,
                    pooling=cast("Pooling", pooling),
                    normalize=normalize,
                    progress=progress,
                ),
                request.receive,
            )
            assert isinstance(vector, Tensor)
            data.append({"object": "embedding", "index": index, "embedding": _written(vector, form)})
        count = sum(len(text.ids) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": model or loaded.name, "usage": usage})


def _written(vector: Tensor, form: str) -> list[float] | str:
    """A vector as numbers, or as base64 of little-endian float32."""
    values: list[float] = vector.tolist()
    return values if form == "float" else base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
