"""A text in Markdown, drawn while it is written."""

from __future__ import annotations

import re

from llmcli.views.reply.markdown_blocks import Colors, MarkdownBlock, blocks, end_of, markdown_lines
from llmcli.views.terminal.live_region import OpenLines

# The beginning of a line that may yet become a list, a heading, a table, ...: its looks would change at once.
_UNDECIDED = re.compile(r"[ \t>]*(?:[-=*+#`~_|: ]+|\d+[.)]?)[ \t]*")


class MarkdownStream:
    """Draws a text as it grows. A block is drawn for good once another has begun; only the last is drawn over."""

    def __init__(self, lines: OpenLines, colors: Colors) -> None:
        self._lines, self._colors = lines, colors
        self._text = ""
        """What is not drawn for good yet."""
        self._complete = 0
        """How much of that, in whole lines, has been searched for a place from which on it is open."""
        self._has_lines = False
        """Whether something is drawn for good."""

    def push(self, text: str) -> None:
        """The text goes on with `text`."""
        self._text += text
        if text and self._lines.is_due():
            with self._lines.drawing():
                still_open = blocks(_decided(self._text))
                found = self._finished_blocks() if len(still_open) > 1 else []
                if found:
                    still_open = blocks(_decided(self._text))
                finished = self._drawn(found)
                # Drawing all of a long one each time would take longer and longer.
                still_open[-1:] = [end_of(block, self._lines.rows + 1) for block in still_open[-1:]]
                self._lines.update(finished, self._drawn(still_open, is_open=True))

    def finish(self) -> None:
        """The text is complete."""
        self._lines.update(self._drawn(blocks(self._text)), [])
        self._text, self._complete, self._has_lines = "", 0, False

    def _finished_blocks(self) -> list[MarkdownBlock]:
        """Those that whatever follows leaves as they are; they are no longer part of the text."""
        # A line may mean something else once it is whole: "#" is a heading, "#1" goes on with the paragraph.
        complete = self._text.rfind("\n") + 1
        if complete == self._complete:
            return []
        self._complete = complete
        found = blocks(self._text[:complete])
        if len(found) < 2:
            return []
        rest = self._text.split("\n", found[-1].line)[-1]
        self._complete -= len(self._text) - len(rest)
        self._text = rest
        return found[:-1]

    def _drawn(self, found: list[MarkdownBlock], *, is_open: bool = False) -> list[str]:
        lines = markdown_lines(found, self._lines.columns, self._colors)
        if lines and self._has_lines:
            lines.insert(0, "")
        self._has_lines = self._has_lines or (bool(lines) and not is_open)
        return lines


def _decided(text: str) -> str:
    """`text` without the beginning of a line of which nobody knows what it will be."""
    whole, end, begun = text.rpartition("\n")
    return whole + end if _UNDECIDED.fullmatch(begun) else text
