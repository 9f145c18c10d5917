"""Ending a reply at given texts, while it streams in pieces that know nothing of them."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.errors import UsageError


class StopStrings:
    """Passes a stream of text through up to the first stop string.

    However the text is cut into pieces, what is shown is what a search of the whole text would show: everything
    before the stop string that begins earliest.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises `UsageError` for an empty stop string, which would end every reply at once."""
        if not all(stops):
            raise UsageError("A stop string is empty; it would end every reply before it begins.")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._stopped = False
        self.met: str | None = None
        """The stop string that has been reached."""

    def push(self, text: str) -> tuple[str, bool]:
        """Take a piece; return what is safe to show, and whether a stop string has been reached.

        Text that may still turn out to begin a stop string is held back.
        """
        if self._stopped:
            return "", True
        text = self._held + text
        found = self._first(text)
        undecided = self._undecided(text, len(text) if found is None else found)
        if undecided is not None:
            self._held = text[undecided:]
            return text[:undecided], False
        self._held = ""
        self._stopped = found is not None
        if found is not None:
            # Of several that begin there, the one that any other would be the beginning of.
            self.met = max((stop for stop in self._stops if text.startswith(stop, found)), key=len)
        return text[:found], self._stopped

    def finish(self) -> str:
        """The stream is over: what was held back and is no part of a stop string."""
        text = self._held[: self._first(self._held)]
        self._held = ""
        return text

    def _first(self, text: str) -> int | None:
        """Where the earliest stop string in `text` begins."""
        return min((at for at in map(text.find, self._stops) if at >= 0), default=None)

    def _undecided(self, text: str, end: int) -> int | None:
        """The first position before `end` from which all the rest of `text` is the beginning of a stop string."""
        for at in range(max(0, len(text) - self._longest + 1), end):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return None
