"""A model that a server holds, as one side of `llm compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from llmcli.client.computed import ServedValue
from llmcli.client.connection import NoServerError
from llmcli.inspection.evaluation.comparison_side import (
    ComparisonSide,
    Expected,
    GreedyContinuation,
    SideFacts,
    Tell,
    row_from_bytes,
)
from llmcli.server.registry import ServerState
from llmcli.server.values import from_json
from llmcli.server.wire import ContinuedText, PredictedText
from llmcli.text.chat_template.json_text import json_text

if TYPE_CHECKING:
    from torch import Tensor


class ServedComparison:
    """Leaves the work to a server, or to a model of this process once the server is gone."""

    def __init__(
        self,
        server: ServerState,
        prompt: ContinuedText,
        load: Callable[[], ComparisonSide],
        tell: Callable[[str], None],
    ) -> None:
        """`load` makes the model of this process when it is needed; `tell` is called with notes."""
        self._server, self._prompt, self._load, self._tell = server, prompt, load, tell
        self._here: ComparisonSide | None = None
        self._writing: ServedValue | None = None
        self._path = server.path

    def begin(self, ids: Sequence[int] | None, max_tokens: int) -> SideFacts:
        """See `ComparisonSide`.

        Raises:
            LlmcliError: the request does not suit the model, or the server ended.
        """
        asked = replace(self._prompt, max_tokens=max_tokens)
        if ids is not None:
            asked = replace(asked, text="", ids=tuple(ids))
        self._writing = self._ask("/internal/continuation", asked)
        if self._writing is None:
            return self._loaded.begin(ids, max_tokens)
        return from_json(SideFacts, self._writing.next(lambda done, total: None)["value"])

    def write(self, tell: Tell) -> GreedyContinuation:
        """See `ComparisonSide`."""
        if self._writing is None:
            return self._loaded.write(tell)
        return self._writing.result(GreedyContinuation, tell)[0]

    def read(
        self, ids: Sequence[int], *, start: int, window: int | None, tell: Tell
    ) -> Iterator[tuple[Expected, Tensor]]:
        """See `ComparisonSide`."""
        reading = self._ask("/internal/predictions", PredictedText(tuple(ids), start, window))
        if reading is None:
            yield from self._loaded.read(ids, start=start, window=window, tell=tell)
            return
        with closing(reading):
            for index in range(start, len(ids)):
                row = reading.next(tell)
                data = reading.data(row["bytes"])
                yield from_json(Expected, row["value"]), row_from_bytes(data)
                tell(index + 1, len(ids))
            self._path = str(reading.next(tell)["value"])

    @property
    def path(self) -> str:
        """See `ComparisonSide`."""
        return self._path if self._here is None else self._here.path

    def close(self) -> None:
        """See `ComparisonSide`."""
        if self._writing is not None:
            self._writing.close()

    @property
    def _loaded(self) -> ComparisonSide:
        """The model of this process."""
        if self._here is None:
            self._here = self._load()
        return self._here

    def _ask(self, path: str, asked: ContinuedText | PredictedText) -> ServedValue | None:
        """The server's answer; None if the model is in this process."""
        if self._here is not None:
            return None
        try:
            return ServedValue(self._server, path, json_text(asdict(asked)), self._tell)
        except NoServerError as error:
            self._tell(f"{error} The model is loaded in this process.")
            self._here = self._load()
            return None
