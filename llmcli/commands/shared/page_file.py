"""Write the HTML page of a result, and show it in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcli.views.terminal import terminal

PAGE_CANDIDATES = 8
"""How many alternatives a page lists for each token, where the command line asks for fewer."""


def viewer_page(value: Mapping[str, Any], about: Sequence[tuple[str, object]], note: str | None = None) -> str | None:
    """The page of a command's JSON object; None if the viewer has no drawing for it.

    `about` are names and values of settings: "model" and "text" are shown as such, the others as settings. `note` is
    one line on how to read the view.
    """
    from llmcli.views.page.page import PageAbout, has_page, page

    if not has_page(value):
        return None
    known = dict(about)
    model, text = known.pop("model", None), known.pop("text", None)
    return page(
        value,
        PageAbout(
            None if model is None else str(model),
            None if text is None else str(text),
            tuple(known.items()),
            note,
        ),
    )


def write_page(content: str, path: Path | None, *, show: bool) -> None:
    """Write a page to `path`, or without one to a temporary file; with `show`, open it in the browser."""
    from llmcli.files import replace_text

    if path is None:
        import tempfile

        # A folder that only the user can read: a page has the prompt and the reply in it.
        path = Path(tempfile.mkdtemp(prefix="llm-")) / "page.html"
    replace_text(path, content)
    if show:
        _open(path)


def _open(path: Path) -> None:
    import webbrowser

    if webbrowser.open(path.resolve().as_uri()):
        terminal.note(f"The page is in {path}.")
    else:
        terminal.note(f"No browser was found. The page is in {path}; open that file in one.")
