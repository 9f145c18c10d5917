"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in the shapes of vLLM."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.server.http.errors import ApiError
from llmcli.server.http.streams import json_object
from llmcli.server.openai.chat_request import chat_prompt
from llmcli.server.openai.completion_request import token_ids
from llmcli.server.openai.fields import Fields
from llmcli.server.openai.tools import read_tools
from llmcli.server.service import Ready, Service


class Tokens:
    """The endpoints of the tokenizer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def encode(self, request: Request) -> Response:
        """The ids of a text, or of messages in the chat template."""
        ready = self._service.needed()
        body = await json_object(request)
        return JSONResponse(await self._service.prepare(lambda: _encoded(body, ready)))

    async def decode(self, request: Request) -> Response:
        """The text of ids."""
        tokenizer = self._service.needed().loaded.tokenizer
        fields = Fields(await json_object(request))
        fields.text("model")
        ids = token_ids(fields.value("tokens"), "tokens", tokenizer)
        fields.end()
        return JSONResponse({"prompt": await self._service.prepare(lambda: tokenizer.decode(ids, skip_special=False))})

    async def info(self, request: Request) -> Response:
        """The special tokens and the chat template."""
        ready = self._service.needed()
        loaded = ready.loaded
        return JSONResponse(
            {
                **loaded.tokenizer.special_tokens,
                "vocab_size": loaded.tokenizer.vocab_size,
                "model_max_length": ready.scheduler.context_length,
                "chat_template": None if loaded.template is None else loaded.template.source,
            }
        )


def _encoded(body: dict[str, Any], ready: Ready) -> dict[str, object]:
    fields, tokenizer = Fields(body), ready.loaded.tokenizer
    fields.text("model")
    shown = fields.flag("return_token_strs")
    if "messages" in body:
        ids = chat_prompt(fields, ready, read_tools(fields, ready.loaded))[0].ids
        fields.flag("add_special_tokens")
    else:
        text = fields.text("prompt")
        if text is None:
            raise ApiError("Give a prompt, or messages.", param="prompt")
        # A program that asks for ids of a text in which control tokens are spelled wants theirs: it will send ids.
        ids = tokenizer.encode(text, add_special_tokens=fields.flag("add_special_tokens", True), control_tokens=True)
    fields.end()
    more = {"token_strs": [tokenizer.piece(token) for token in ids]} if shown else {}
    return {"count": len(ids), "max_model_len": ready.scheduler.context_length, "tokens": ids, **more}
