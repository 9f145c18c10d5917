"""The interface of decoders to the engine's loop. V is the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from llmcli.engine.events import Origin
from llmcli.engine.prefill import PrefillProgress


class TokenChoice(NamedTuple):
    """The next token, and the logits and distribution it was chosen from, if these were requested."""

    token: int | None
    """None: a constraint allows no token, because the reply is complete."""
    origin: Origin = "model"
    logits: Tensor | None = None
    """(V,), of the model itself."""
    distribution: Tensor | None = None
    """(V,), after the sampling filters."""
    allowed: Tensor | None = None
    """(V,): the logits with -inf for tokens that the constraint forbids; None without a constraint."""


class TokenSource(Protocol):
    """Chooses the tokens of one reply. `ids` are prompt and reply; each call has one more token than the last.

    An interruption raises `KeyboardInterrupt` during passes of the model only, never while a token is chosen.
    """

    def begin(self, ids: Sequence[int], progress: PrefillProgress | None = None) -> None:
        """Read the prompt `ids`."""

    def next(self, ids: Sequence[int]) -> TokenChoice:
        """The token that follows `ids`.

        Raises:
            NotFiniteError: the model's logits are NaN or infinite.
            LlmcliError: a constraint allows no token, although the reply is not complete.
        """

    def end(self, ids: Sequence[int]) -> None:
        """The reply is over and the text is `ids`: drop what was read beyond them, if necessary."""

    def stats(self) -> Mapping[str, Any]:
        """Fields of the reply's `Stats` that only this source knows."""
