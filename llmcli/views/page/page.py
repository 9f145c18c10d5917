"""Build one HTML page from the JSON of a command: the object, the scripts that draw it, and a table without scripts.

The page loads nothing: its content security policy allows only its own script and styles, by their hashes. Texts of
models and users are in the JSON, which the scripts write through text nodes, and escaped in the parts without scripts.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcli import __version__
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.page.drawings import drawing_of
from llmcli.views.terminal.sanitize import visible

_FOLDER = Path(__file__).parent
_TITLE_WORDS = 60
# JSON of more characters is stored compressed, its numbers rounded to this many digits: a page stays below 5 MB.
_LONGEST_PLAIN = 1 << 22
_DIGITS = 4
# What ends a script element, and the line ends that JavaScript knows and JSON does not.
_NOT_IN_A_SCRIPT = re.compile("[<\u2028\u2029]")


@dataclass(frozen=True)
class PageAbout:
    """What a page says about its figures, besides the figures themselves."""

    model: str | None = None
    text: str | None = None
    """The prompt or the text."""
    settings: Sequence[tuple[str, object]] = ()
    """Names and values of the settings in effect."""
    note: str | None = None
    """One line on how to read the view."""


def has_page(value: Mapping[str, Any]) -> bool:
    """Whether the viewer has a drawing for this JSON object."""
    return drawing_of(value) is not None


def page(value: Mapping[str, Any], about: PageAbout) -> str:
    """The HTML page of `value`, a command's JSON object for which `has_page` is true."""
    drawing = drawing_of(value)
    assert drawing is not None
    files = ("viewer.css", "viewer.js", *drawing.scripts)
    script = "\n".join(_file(name) for name in files if name.endswith(".js"))
    style = "\n".join(_file(name) for name in files if name.endswith(".css"))
    title = _title(drawing.command, about)
    return _PAGE.format(
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        title=escaped(title),
        style=style,
        heading=escaped(" · ".join(part for part in (drawing.command, about.model) if part)),
        prompt=f'<p class="prompt">{escaped(about.text)}</p>' if about.text else "",
        settings=_settings(about, value),
        table=drawing.table(value),
        how="".join(f"<p>{escaped(text)}</p>" for text in (drawing.how(), about.note) if text),
        about=_embedded({"drawing": drawing.name, "model": about.model, "title": title}),
        value=_value_element(value),
        schema=escaped(str(value.get("schema", "a reply without schema"))),
        version=escaped(__version__),
        script=script,
    )


def escaped(text: str) -> str:
    """`text` for HTML, with its control characters and those that reorder text made visible."""
    return html.escape(visible(text))


def _title(command: str, about: PageAbout) -> str:
    words = " ".join((about.text or "").split())
    start = words if len(words) <= _TITLE_WORDS else words[:_TITLE_WORDS].rsplit(" ", 1)[0] + "…"
    return " · ".join(part for part in (command, about.model, start) if part)


def _settings(about: PageAbout, value: Mapping[str, Any]) -> str:
    settings = [*about.settings]
    if not settings and value.get("seed") is not None:
        settings.append(("seed", value["seed"]))
    path = value.get("path") or value.get("stats", {}).get("path")
    shown = [*settings, *([("computed by", path)] if path else []), ("llmcli", __version__)]
    return "".join(f"<span>{escaped(name)} <strong>{escaped(str(one))}</strong></span>" for name, one in shown)


def _value_element(value: Mapping[str, Any]) -> str:
    """The script element with the JSON, which `viewer.js` reads; compressed if it is long."""
    text = _embedded(value)
    if len(text) <= _LONGEST_PLAIN:
        return f'<script type="application/json" id="value">{text}</script>'
    packed = gzip.compress(json_text(_shortened(value)).encode(), 6, mtime=0)
    return f'<script type="application/gzip" id="value">{base64.b64encode(packed).decode()}</script>'


def _shortened(value: Any) -> Any:
    """JSON values with their numbers rounded, and without the bytes of tokens that have a text."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _shortened(one) for name, one in value.items() if name != "bytes" or not value.get("text")}
    return [_shortened(one) for one in value] if isinstance(value, list | tuple) else value


def _embedded(value: object) -> str:
    """`value` as JSON that cannot end the script element around it."""
    return _NOT_IN_A_SCRIPT.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text(value))


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    """The hash of a script or style element in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
{prompt}
<div class="settings">{settings}</div>
</header>
<main id="view"></main>
<noscript>{table}</noscript>
<footer class="how">{how}<p>JSON: {schema} · llmcli {version}</p></footer>
<script type="application/json" id="about">{about}</script>
{value}
<script>{script}</script>
</body>
</html>
"""
