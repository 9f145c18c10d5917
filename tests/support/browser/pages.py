"""Show the page of a JSON object in the browser."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from llmcli.views.page.page import PageAbout, page
from tests.support.browser.chromium import Browser

Show: TypeAlias = Callable[[dict[str, Any]], Browser]
"""Opens the page of a JSON object."""

# A long JSON is decompressed first, so that it is drawn a little after the page has been loaded.
_DRAWN = """new Promise((done) => {
  const end = Date.now() + 20000;
  const look = () => "drawn" in document.documentElement.dataset ? done(true) :
    Date.now() > end ? done(false) : setTimeout(look, 10);
  look();
})"""


def opener(browser: Browser, folder: Path) -> Show:
    """A `Show` that checks that a page is drawn, writes nothing to the console, and asks for nothing else."""

    def opened(value: dict[str, Any]) -> Browser:
        path = folder / "page.html"
        path.write_text(page(value, PageAbout("tiny", value.get("prompt"))), encoding="utf-8")
        browser.resize(1280, 1000)
        browser.prefer()
        browser.open(path)
        assert browser.run(_DRAWN)
        assert browser.console == []
        assert browser.requests == [path.as_uri()]
        return browser

    return opened


def token(index: int) -> str:
    """The selector of a token in a text."""
    return f'[data-index="{index}"]'


def screenshots(folder: Path) -> Path:
    """Where pictures are written: the folder in the variable SCREENSHOTS, or `folder`."""
    return Path(os.environ.get("SCREENSHOTS", folder))
