"""`llm generate --jsonl`: a line of JSON for each event."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.engine import Event, Step


class JsonLines:
    """Writes each event as it arrives, but keeps `Finish`: the attention, computed after the reply, comes before it."""

    def __init__(
        self,
        model: str,
        seed: int | None,
        token_bytes: Callable[[int], bytes],
        *,
        conversation: str | None = None,
        sample: int | None = None,
    ) -> None:
        """`conversation` is the id of the saved conversation; `sample` the number of the reply, of several."""
        self._model, self._seed, self._token_bytes, self._conversation = model, seed, token_bytes, conversation
        self._sample = {} if sample is None else {"sample": sample}
        self._finish: Event | None = None

    def show(self, event: Event) -> None:
        """Write `event`; keep a `Finish` until `end`."""
        from llmcli.engine import Finish

        if isinstance(event, Finish):
            self._finish = event
        else:
            self._write(event)

    def end(self, steps: Iterable[Step]) -> None:
        """Write the attention of each of `steps` that has it, and then the last event."""
        from llmcli.views.reply.reply_json import attention_json

        for step in steps:
            if step.attention is not None:
                terminal.write_line(json_text(attention_json(step.index, step.attention) | self._sample))
        if self._finish is not None:
            self._write(self._finish)

    def _write(self, event: Event) -> None:
        from llmcli.views.reply.reply_json import event_json

        line = event_json(
            event,
            model=self._model,
            seed=self._seed,
            token_bytes=self._token_bytes,
            conversation=self._conversation,
        )
        terminal.write_line(json_text(line | self._sample))
