"""The map of the logit lens in a real browser: its cells, its card, its keys, and a long text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmcli.inspection.core.tokens import Token, TokenProb
from llmcli.inspection.residual.logit_lens import Lens, LensLayer, LensPosition
from llmcli.views.inspect.logit_lens import SCHEMA
from llmcli.views.page.page import PageAbout, page
from llmcli.views.terminal.to_json import json_value
from tests.support.browser.chromium import Browser
from tests.support.browser.pages import Show, screenshots
from tests.support.inspections import logit_lens as readings

pytestmark = pytest.mark.slow
LARGEST_PAGE = 5 << 20
SMALL = json_value(SCHEMA, readings.lens(*(readings.position(at) for at in range(3))))
BLUE, AMBER = [232, 239, 251], [245, 158, 11]


def long_lens(length: int, layers: int) -> Lens:
    """A lens at every position, whose numbers are all different."""

    def candidates(number: int) -> Iterator[TokenProb]:
        for rank in range(5):
            id_ = (number * 31 + rank * 977) % 40000
            text = f" word{id_}"
            yield TokenProb(id_, text, text.encode(), ((number * 7919 + rank * 104729) % 99991) / 99991)

    positions = []
    for at in range(length):
        told = [
            LensLayer(layer, tuple(candidates(at * 37 + layer)), 1 + at % 50, (at * 131 + layer) % 977 / 97.7)
            for layer in range(layers + 1)
        ]
        positions.append(LensPosition(at, Token(1, "end", b"end"), tuple(told), layers // 2))
    return Lens(tuple(Token(at, f" text{at}", f" text{at}".encode()) for at in range(length)), tuple(positions))


def pixel(browser: Browser, row: int, column: int) -> Any:
    """The color of a cell on the canvas, right of its word."""
    place = f"getImageData({44 + 88 * column + 84}, {42 + 22 * row + 18}, 1, 1)"
    return browser.run(f"Array.from(document.querySelector('.token-map').getContext('2d').{place}.data).slice(0, 3)")


def point(browser: Browser, row: int, column: int, *, click: bool = False) -> None:
    """Move the pointer over a cell, and click it if asked."""
    x, y = browser.run(
        "(() => { const box = document.querySelector('.token-frame').getBoundingClientRect();"
        f" return [box.left + {44 + 88 * column + 40}, box.top + {42 + 22 * row + 12}]; }})()"
    )
    for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
        browser.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def test_pointing_at_a_cell_shows_the_most_probable_tokens(show: Show) -> None:
    browser = show(SMALL)
    assert browser.text(".card h2") == "␣Paris after block 1"
    point(browser, 1, 0)
    card = browser.text(".card")
    assert "[/b]世界世界⏎ after block 0" in card and "read: The #0" in card and "next in the text: ␣capital" in card
    rows = browser.run("Array.from(document.querySelectorAll('.card tbody tr'), (row) => row.innerText)")
    assert [row.split() for row in rows] == [["[/b]世界世界⏎", "30.0%"], ["␣Paris", "20.0%"]]
    assert "1.80 bits" in card and "block 1" in card and browser.text(".card .chosen th") == "␣Paris"
    point(browser, 0, 2)
    assert "␣is after the embedding" in browser.text(".card") and "4316" in browser.text(".card")
    assert "the end of the text" in browser.text(".card")


def test_digits_choose_what_colors_the_cells(show: Show) -> None:
    browser = show(SMALL)
    assert pixel(browser, 0, 0) == BLUE and pixel(browser, 1, 0) == [205, 191, 221]
    browser.press("2")
    assert "KL divergence" in browser.text(".legend")
    assert pixel(browser, 0, 0) == AMBER and pixel(browser, 2, 0) == BLUE
    browser.press("3")
    assert "rank" in browser.text(".legend") and pixel(browser, 0, 0) == AMBER
    browser.click("[data-name=probability]")
    assert pixel(browser, 0, 0) == BLUE


def test_keys_walk_pin_and_let_go(show: Show) -> None:
    browser = show(SMALL)
    browser.press("ArrowUp")
    assert "after block 0" in browser.text(".card h2")
    browser.press("Home")
    browser.press("PageUp")
    assert "after the embedding" in browser.text(".card h2") and "#0" in browser.text(".card")
    browser.press("ArrowLeft")
    assert "#0" in browser.text(".card")
    browser.press("Escape")
    assert "Point at a cell" in browser.text(".card")
    point(browser, 2, 1, click=True)
    browser.point("h1")
    assert "␣Paris after block 1" in browser.text(".card") and "#1" in browser.text(".card")


def test_hostile_words_stay_text(show: Show) -> None:
    words = ("</script><b id=evil>", "\u202eabc", "🙂", "x" * (1 << 20), "\ud83d")
    told = [TokenProb(at, word, word.encode("utf-8", "surrogatepass"), 0.2) for at, word in enumerate(words)]
    value = json_value(
        SCHEMA,
        Lens(
            tuple(Token(at, word, b"") for at, word in enumerate(words)),
            (LensPosition(0, Token(0, words[0], b""), (LensLayer(0, tuple(told), 1, 0.0),), 0),),
        ),
    )
    card = show(value).text(".card")
    assert "</script><b␣id=evil>" in card and "\\u202eabc" in card and "(1048576 characters)" in card


def test_a_lens_of_2000_tokens_is_a_page_below_its_limit(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(SCHEMA, long_lens(2000, 30)))
    assert (tmp_path / "page.html").stat().st_size < LARGEST_PAGE
    assert "#1999" in browser.text(".card")
    browser.press("Home")
    found = browser.text(".card h2")
    assert "#0" in browser.text(".card") and browser.run("document.querySelector('.token-frame').scrollLeft") == 0
    assert found == "␣word930 after block 29"
    browser.click(".token-strip")
    assert 60000 < browser.run("document.querySelector('.token-frame').scrollLeft") < 110000
    browser.screenshot(screenshots(tmp_path) / "lens-long.png")


def test_light_and_dark(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(SCHEMA, long_lens(9, 12)))
    for name, dark in (("light", False), ("dark", True)):
        browser.prefer(dark=dark)
        browser.screenshot(screenshots(tmp_path) / f"lens-{name}.png")
    browser.prefer(dark=True)
    assert pixel(browser, 12, 0) in ([0, 0, 175], [0, 95, 135], [95, 95, 135], [175, 135, 95], [255, 175, 0])


def test_the_table_without_scripts_has_the_words(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(SMALL, PageAbout()), encoding="utf-8")
    browser.open(path, scripts=False)
    shown = browser.text("noscript .static")
    assert "emb" in shown and "␣Paris 75.0%" in shown and "␣capital" in shown and "block 1" in shown
