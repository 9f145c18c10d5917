"""What a recurrent layer remembers of a text.

Dimension letters: B batch, W width of the convolution, C its channels, N tokens of the longest n-gram.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class State(NamedTuple):
    """The memory of a layer after some number of tokens; its size does not depend on that number.

    The tensors are never changed in place: every pass makes new ones. So an earlier state stays valid, and to keep it
    costs only its memory.
    """

    tail: Tensor
    """(B, W - 1, C): the last inputs of the layer's convolution, in the type of the activations; with a dilation D
    (B, (W - 1) D, C).
    """
    sum: Tensor | None
    """The sum over all tokens in float32, of a shape that depends on the kind of layer; None: the layer has none."""
    ids: Tensor | None = None
    """(B, N - 1): the last tokens, with which n-grams of the next ones begin; None: the layer has no n-grams."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


class StateCache(Protocol):
    """The states of the layers, and behind them those of their n-gram embeddings, see `ModelConfig.state_slots`."""

    def state(self, layer: int) -> State | None:
        """The state of the layer after the tokens before those of this pass; None: there are none."""

    def store(self, layer: int, state: State) -> None:
        """Remember the state of the layer after the tokens of this pass."""
