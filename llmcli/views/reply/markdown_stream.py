"""Draw a Markdown text while it is being generated."""

from __future__ import annotations

import re

from llmcli.views.reply.markdown_blocks import Colors, MarkdownBlock, blocks, end_of, markdown_lines
from llmcli.views.terminal.live_region import OpenLines

# Start of a line that may still become a list, a heading, a table, ...: its rendering would change with the next text.
_UNDECIDED = re.compile(r"[ \t>]*(?:[-=*+#`~_|: ]+|\d+[.)]?)[ \t]*")


class MarkdownStream:
    """Draws a growing Markdown text. A block is final once the next has begun; only the last block is redrawn."""

    def __init__(self, lines: OpenLines, colors: Colors) -> None:
        self._lines, self._colors = lines, colors
        self._text = ""
        """The part that is not final yet."""
        self._complete = 0
        """Length of the part of `_text`, in whole lines, that was already searched for finished blocks."""
        self._has_lines = False
        """Whether any final lines have been drawn."""

    def push(self, text: str) -> None:
        """Append `text`, and redraw if an update is due."""
        self._text += text
        if text and self._lines.is_due():
            with self._lines.drawing():
                still_open = blocks(_decided(self._text))
                found = self._finished_blocks() if len(still_open) > 1 else []
                if found:
                    still_open = blocks(_decided(self._text))
                finished = self._drawn(found)
                # Redrawing a long block as a whole would take longer with every update.
                still_open[-1:] = [end_of(block, self._lines.rows + 1) for block in still_open[-1:]]
                self._lines.update(finished, self._drawn(still_open, is_open=True))

    def finish(self) -> None:
        """Draw the rest: the text is complete."""
        self._lines.update(self._drawn(blocks(self._text)), [])
        self._text, self._complete, self._has_lines = "", 0, False

    def _finished_blocks(self) -> list[MarkdownBlock]:
        """Blocks that no later text can change; removes them from `_text`."""
        # The meaning of a line may change until it is complete: "#" is a heading, "#1" continues the paragraph.
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
    """`text` without a last line that is still ambiguous."""
    whole, end, begun = text.rpartition("\n")
    return whole + end if _UNDECIDED.fullmatch(begun) else text
