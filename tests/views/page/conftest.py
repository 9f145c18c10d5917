from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser.chromium import CHROMIUM, Browser, chromium
from tests.support.browser.pages import Show, opener


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of pages."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Show:
    """Opens the page of a JSON object."""
    return opener(browser, tmp_path)
