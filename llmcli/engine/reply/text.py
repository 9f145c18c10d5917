"""Text of a reply, token by token: detokenized, split into thought and answer, and ended by stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from llmcli.engine.events import FinishReason
from llmcli.engine.sampling.params import SamplingParams
from llmcli.text.detokenizer import Detokenizer
from llmcli.text.reasoning import PLAIN, Part, ReplyStart, ThinkingSplitter
from llmcli.text.stop_strings import StopStrings
from llmcli.text.tokenizer import Tokenizer


class ReplyText:
    """The text of one reply. The pieces it returns add up to the text before a stop string, with marks of thoughts.

    The stop strings of the `SamplingParams` apply to the answer only, unless `stop_in_thinking` is set; the texts with
    which the model itself ends a reply apply everywhere.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        *,
        stop_texts: Sequence[str] = (),
        start: ReplyStart | None = None,
        exact: bool = False,
    ) -> None:
        """`start` is where the reply begins, by default in a text without thoughts; `exact`: the answer has a form."""
        start = start or ReplyStart()
        self._tokenizer, self._params = tokenizer, params
        self._detokenizer = Detokenizer(tokenizer)
        self._splitter = ThinkingSplitter(tokenizer.thinking, start.state, exact=exact)
        self._splitter.push(start.prefill)
        self._in_answer = StopStrings((*params.stop, *stop_texts))
        same = params.stop_in_thinking or start.state == PLAIN
        self._in_thought = self._in_answer if same else StopStrings(stop_texts)
        self._current = self._in_answer
        self._has_stops = bool(params.stop or stop_texts)
        self._stop_found: str | None = None

    @property
    def stopped(self) -> FinishReason | None:
        """Why the text has ended, if it has reached a stop string."""
        if self._stop_found is None:
            return None
        return "stop_string" if self._stop_found in self._params.stop else "stop"

    @property
    def state(self) -> str:
        """The state of the tokenizer's `ThinkingFormat`: in a thought, before one, or in the answer."""
        return self._splitter.state

    @property
    def awaits_answer(self) -> bool:
        """Whether a thought, or a mark before the answer, has yet to end."""
        return self._splitter.awaits_answer

    def begins_answer(self, token: int) -> bool:
        """Whether `token` would end a thought and contain text of the answer too, as "> Yes" does after "</think"."""
        splitter = copy(self._splitter)
        text = self._tokenizer.token_text(token)
        return any(part == "answer" for part, _ in splitter.pieces(text)) and not splitter.awaits_answer

    def push(self, token: int) -> str:
        """The text that `token` adds. Text that may be the beginning of a stop string is held back."""
        return self._take(self._detokenizer.push(token))

    def finish(self) -> str:
        """The reply is over: return the text that was held back and turned out to be no stop string."""
        if self._stop_found is not None:
            return ""
        text = self._take(self._detokenizer.finish())
        if self._stop_found is not None or not self._has_stops:
            return text
        thought, answer = self._splitter.finish()
        text += self._up_to_stop("thought" if thought else "answer", thought or answer)
        return text if self._stop_found is not None else text + self._current.finish()

    def _take(self, text: str) -> str:
        pieces = self._splitter.pieces(text)
        if not self._has_stops:
            return text
        shown = ""
        for part, piece in pieces:
            if self._stop_found is None:
                shown += self._up_to_stop(part, piece)
        return shown

    def _up_to_stop(self, part: Part, piece: str) -> str:
        """The text of `piece` up to a stop string, preceded by the held-back text of the other part."""
        stops = self._in_answer if part == "answer" else self._in_thought
        before = "" if stops is self._current else self._current.finish()
        self._current = stops
        text, _ = stops.push(piece)
        self._stop_found = stops.met
        return before + text
