"""The cache of a single recurrent layer."""

from __future__ import annotations

from llmcli.model.cache.state import State


class OneState:
    """Keeps the state of layer 0."""

    now: State | None = None

    def state(self, layer: int) -> State | None:
        assert layer == 0
        return self.now

    def store(self, layer: int, state: State) -> None:
        assert layer == 0
        self.now = state
