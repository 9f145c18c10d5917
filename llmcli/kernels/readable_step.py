"""The readable model as a step: runs if no kernel can, if the model has forward hooks, or if a kernel fails."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcli.kernels.base import READABLE_CHUNK, FastStep, StepCapabilities, readable_logits, readable_name
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import KVCache, Transformer


class ReadableStep(FastStep):
    """Calls the model itself.

    The optional methods work, so that a kernel that fails can be replaced in the middle of a text, but are no faster
    than single passes: `capabilities` lists none of them.
    """

    prefill_chunk = READABLE_CHUNK
    capabilities = StepCapabilities(is_readable=True)

    def __init__(self, model: Transformer, reason: str = "") -> None:
        """`reason` says why no kernel runs; it becomes part of the name."""
        self._model, self._name = model, readable_name(model, reason)

    @property
    def name(self) -> str:
        """The name of the step, for display."""
        return self._name

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> Tensor:
        """Logits in float32 of the token that follows each of `ids`, (T, V), or the last of them, (1, V).

        Raises:
            PromptTooLongError: the model has learned positions, and fewer than the text has tokens.
            NotFiniteError: logits are NaN or infinite.
        """
        return readable_logits(self._model, ids, cache, only_last=only_last)

    @torch.inference_mode()
    def forward_device_token(self, token: Tensor, cache: KVCache) -> Tensor:
        """Logits (1, V) after `token` (1,)."""
        logits: Tensor = self._model(token[None], cache)
        return logits[0].float()

    @torch.inference_mode()
    def forward_multi_step(self, token: int, cache: KVCache, request: SamplingRequest) -> list[int]:
        """A single token, chosen by the first number of `request`."""
        from llmcli.kernels.cuda.sampler import Kind, choose, settings_of

        logits = self.forward([token], cache)[0, : request.vocabulary]
        uniform = torch.tensor(request.uniforms[:1], dtype=torch.float64)
        kind = Kind.of(request.filters, len(logits))
        seen = torch.zeros(len(logits), dtype=torch.bool)
        return [int(choose(logits, seen, uniform, settings_of(request.filters), kind))]

    def forward_rows_multi_step(
        self, ids: Sequence[int], caches: Sequence[KVCache], requests: Sequence[SamplingRequest | None]
    ) -> list[list[int] | Tensor]:
        """A single token or the logits of each text."""
        return [
            self.forward([token], cache)[0] if request is None else self.forward_multi_step(token, cache, request)
            for token, cache, request in zip(ids, caches, requests, strict=True)
        ]
