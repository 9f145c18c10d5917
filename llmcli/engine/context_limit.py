"""The longest text that a context allows, and the error where memory is too small for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from llmcli.device import memory, memory_for
from llmcli.errors import PromptTooLongError, UsageError
from llmcli.sizes import size

if TYPE_CHECKING:
    from llmcli.model import ModelConfig, Transformer


def allowed_context(config: ModelConfig, context_length: int | None) -> int:
    """The most tokens of prompt and reply together: `context_length`, by default what the model was made for.

    Raises:
        UsageError: it is more than the model was made for.
    """
    longest = config.context_length
    if context_length is not None and not 0 < context_length <= longest:
        raise UsageError(
            f"The model was made for up to {longest} tokens; a context of {context_length} is not possible."
        )
    return context_length or longest


def check_prompt(ids: Sequence[int], context_length: int) -> None:
    """Check that a prompt is not empty and leaves room for a reply.

    Raises:
        UsageError: it is empty.
        PromptTooLongError: it leaves no room for a reply.
    """
    if not ids:
        raise UsageError("The prompt is empty: there is nothing to continue.")
    if len(ids) >= context_length:
        raise PromptTooLongError(
            f"The prompt has {len(ids)} tokens, but the context holds {context_length} with at least one for "
            f"the reply. It is {len(ids) - context_length + 1} too long; nothing was cut. See llm help troubleshooting."
        )


def memory_for_text(model: Transformer, tokens: int) -> AbstractContextManager[None]:
    """Inside the block, raise `OutOfMemoryError` if a text of `tokens` tokens, or a pass over it, does not fit."""

    def what() -> str:
        cache = size(model.config.kv_bytes(tokens, model.dtype.itemsize))
        free = memory(model.device)[1]
        left = "" if free is None else f", and {model.device} has {size(free)} left"
        return f"a text of {tokens} tokens: their keys and values alone take {cache}{left}"

    return memory_for(what, "Use a shorter text or a smaller --context, or make room with --quantize int4.")
