"""A model on torch's `meta` device: its modules and the shapes of its parameters, without memory for the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from llmcli.model.config import ModelConfig
from llmcli.model.transformer import Transformer


class _NoInitialization(TorchFunctionMode):
    """Skip parameter initialization: on `meta` it has no effect, and computing it imports a compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def meta_model(config: ModelConfig, kind: Callable[[ModelConfig], Transformer] = Transformer) -> Transformer:
    """Make a model on the `meta` device, as `kind` makes it, without memory for its weights."""
    with torch.device("meta"), _NoInitialization():
        return kind(config)
