"""Export a view as a self-contained HTML page or SVG picture."""

from __future__ import annotations

import io
import re
from copy import copy
from typing import TYPE_CHECKING

from llmcli.views.terminal.sanitize import visible
from llmcli.views.terminal.terminal import LEAST_COLUMNS

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDTH = 110
_FONTS_AND_CREDITS = re.compile(r"@font-face\s*\{[^}]*\}\s*|<!--.*?-->\s*", re.DOTALL)


def as_html(view: RenderableType) -> str:
    """`view` as an HTML page with its styles inside."""
    return _recorded(view).export_html(inline_styles=True, code_format=_PAGE)


def as_svg(view: RenderableType, title: str, *, width: int = WIDTH) -> str:
    """`view` as an SVG picture of a terminal window with this `title`, `width` columns wide."""
    from rich.color_triplet import ColorTriplet
    from rich.terminal_theme import SVG_EXPORT_THEME

    # Black, on which colors without a background are as legible as in a terminal; Rich's own is gray.
    black = copy(SVG_EXPORT_THEME)
    black.background_color = ColorTriplet(0, 0, 0)
    picture = _recorded(view, width).export_svg(title=visible(title), theme=black)
    # Rich links to web fonts: opening the file would need a network and tell a font server that it is being read.
    return _FONTS_AND_CREDITS.sub("", picture).replace("Fira Code", "monospace")


def _recorded(view: RenderableType, width: int = WIDTH) -> Console:
    from llmcli.views.terminal.console import SafeConsole

    console = SafeConsole(
        least_columns=LEAST_COLUMNS,
        file=io.StringIO(),
        record=True,
        width=width,
        color_system="truecolor",
        force_terminal=True,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    console.print(view)
    return console


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>llm</title>
<style>
body {{ background: #000000; color: #d8dee4; margin: 2em; }}
pre {{ font-family: Menlo, "DejaVu Sans Mono", Consolas, "Courier New", monospace; line-height: 1.25; }}
</style>
</head>
<body>
<pre><code>{code}</code></pre>
</body>
</html>
"""
