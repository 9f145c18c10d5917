"""Read tool calls out of a reply while it is generated."""

from __future__ import annotations

from collections.abc import Collection

from llmcli.text.tool_calls.forms import CallForm, CallText, NoCallError, calls_in


class ToolCallReader:
    """Takes the text of a reply piece by piece, and returns what is not a call, and the calls that are complete.

    A call that is broken stays text. White space around calls is dropped; without a call, the text is unchanged.
    """

    def __init__(self, form: CallForm, names: Collection[str]) -> None:
        """`names` are the tools: a reply that begins as a call without an opener is one only if it names one."""
        self._form, self._names = form, names
        self._held = ""
        self._opened: str | None = None
        """The opener of the calls that are being read; None in text."""
        self._has_text = self._has_calls = False

    def push(self, text: str) -> tuple[str, list[CallText]]:
        """The text and the calls that the next text of the reply completes."""
        self._held += text
        said, calls = "", list[CallText]()
        while True:
            if self._opened is None:
                more, goes_on = self._text()
                said += more
            else:
                more, found = self._calls()
                said, calls, goes_on = said + more, calls + found, bool(more or found)
            if not goes_on:
                return said, calls

    def finish(self) -> tuple[str, list[CallText]]:
        """The reply is over: the rest of its text, and calls that end with it."""
        held, opener, self._held, self._opened = self._held, self._opened, "", None
        if opener is not None:
            calls = self._read(opener, held)
            if calls is not None:
                return "", calls
            return self._said(opener + held), []
        return ("", []) if self._has_calls and not held.strip() else (self._said(held), [])

    def _text(self) -> tuple[str, bool]:
        """The text up to an opener or to what may become one; whether an opener follows."""
        form, held = self._form, self._held
        if form.begins and not (self._has_text or self._has_calls):
            begun = held.lstrip()
            if not begun:
                return "", False
            if begun[0] in form.begins:
                self._held, self._opened = held, ""
                return "", True
        if form.opener is not None and form.opener in held:
            before, _, self._held = held.partition(form.opener)
            said = before.rstrip()
            # With the white space before it, for the text of a broken call.
            self._opened = before[len(said) :] + form.opener
            return self._said(said), True
        keep = max((n for n in range(1, len(form.opener or "")) if held.endswith((form.opener or "")[:n])), default=0)
        shown = held[: len(held) - keep].rstrip()
        self._held = held[len(shown) :]
        return self._said(shown), False

    def _calls(self) -> tuple[str, list[CallText]]:
        """The calls up to a closer, or the text of a broken call; nothing before the closer."""
        closer, opener, at = self._form.closer, self._opened or "", 0
        while closer is not None and (at := self._held.find(closer, at)) >= 0:
            body, after = self._held[:at], self._held[at + len(closer) :]
            try:
                calls = self._form.read(body)
            except NoCallError as error:
                if error.unfinished:
                    # The closer is inside a string.
                    at += len(closer)
                    continue
                self._held, self._opened = after, None
                return self._said(opener + body + closer), []
            self._held, self._opened, self._has_calls = after, None, True
            return "", calls
        return "", []

    def _read(self, opener: str, body: str) -> list[CallText] | None:
        calls = calls_in(self._form, body)
        if calls is None:
            return None
        if not opener and not all(call.name in self._names for call in calls):
            return None
        self._has_calls = True
        return calls

    def _said(self, text: str) -> str:
        self._has_text = self._has_text or bool(text)
        return text
