"""Stop strings: end a streamed reply at given texts, which may span several pieces."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.errors import UsageError


class StopStrings:
    """Passes a text stream through up to the first stop string.

    The result does not depend on how the text is cut into pieces: it is everything before the stop string that begins
    earliest in the whole text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises `UsageError` for an empty stop string, which would end every reply immediately."""
        if not all(stops):
            raise UsageError("A stop string is empty; it would end every reply before it begins.")
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self._stopped = False
        self.met: str | None = None
        """The stop string that was found."""

    def push(self, text: str) -> tuple[str, bool]:
        """Add a piece; return the text that is safe to show, and whether a stop string was found.

        Text that may be the beginning of a stop string is held back.
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
            # Of several that begin there, the longest.
            self.met = max((stop for stop in self._stops if text.startswith(stop, found)), key=len)
        return text[:found], self._stopped

    def finish(self) -> str:
        """The held-back text at the end of the stream, up to a stop string."""
        text = self._held[: self._first(self._held)]
        self._held = ""
        return text

    def _first(self, text: str) -> int | None:
        """Start of the earliest stop string in `text`, or None."""
        return min((at for at in map(text.find, self._stops) if at >= 0), default=None)

    def _undecided(self, text: str, end: int) -> int | None:
        """The first position before `end` from which the rest of `text` is a prefix of a stop string, or None."""
        for at in range(max(0, len(text) - self._longest + 1), end):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return at
        return None
