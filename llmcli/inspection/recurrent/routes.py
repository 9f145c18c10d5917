"""Through what an answer depends on a part of the prompt: attention, or the states of recurrent layers.

The part is hidden from later tokens in three ways: attention cannot reach it, states pass over it, or both. A state
pass over it: at these tokens nothing is written into it, and it does not fade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from llmcli.errors import UsageError
from llmcli.inspection.causal.prompt_ablation import check_lengths, read_answer
from llmcli.inspection.core.ablation import without_keys, without_states, without_tokens
from llmcli.inspection.core.tokens import Token, tokens
from llmcli.inspection.recurrent.memory import check_recurrent
from llmcli.loaded_model import LoadedModel


@dataclass(frozen=True)
class Routes:
    """The log-probability of an answer in nats, with a part of the prompt in reach and hidden."""

    positions: tuple[int, ...]
    """The part's tokens."""
    text: str
    answer: tuple[Token, ...]
    before: float
    """With the whole prompt in reach."""
    without_attention: float
    """Attention cannot reach the part; states hold it."""
    without_states: float
    """States and convolutions pass over the part; attention reaches it."""
    without_both: float


@torch.inference_mode()
def routes(
    loaded: LoadedModel,
    ids: Sequence[int],
    answer: Sequence[int],
    positions: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Routes:
    """Measure `answer` after `ids` four times; `progress` is called with (passes done, all passes).

    Raises:
        PromptTooLongError: prompt and answer are longer than the model's context.
        UsageError: the answer is empty, or no block of the model has a state or a short convolution.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    check_recurrent(loaded.config)
    if not answer:
        raise UsageError("The answer is empty.")
    check_lengths(loaded, ids, answer)
    ways: list[AbstractContextManager[None]] = [
        nullcontext(), without_keys(model, positions), without_states(model, positions),
        without_tokens(model, positions),
    ]  # fmt: skip
    totals = []
    for done, way in enumerate(ways, 1):
        with way:
            totals.append(sum(read_answer(loaded, ids, answer)[0]))
        if progress is not None:
            progress(done, len(ways))
    said = tokenizer.decode([ids[at] for at in positions], skip_special=False)
    return Routes(tuple(positions), said, tokens(tokenizer, answer), *totals)
