"""The page of a reply in a real browser: pointing and keys show the numbers of its JSON, and nothing leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmcli.views.page.page import PageAbout, page
from tests.support.browser.chromium import Browser
from tests.support.browser.pages import Show, screenshots, token
from tests.support.browser.replies import PROMPT_TOKENS, reply_of

pytestmark = pytest.mark.slow
TEXTS = ["The", " sky", " is", " blue", " today", "."]
LARGEST_PAGE = 5 << 20


def test_pointing_at_a_token_shows_the_numbers_of_the_json(show: Show) -> None:
    value = reply_of(TEXTS)
    browser = show(value)
    browser.point(token(3))
    card = browser.text(".card")
    assert "␣blue" in card and "20.0%" in card and "2.32 bits" in card and "1.50 bits" in card and "75.0%" in card
    rows = browser.run("Array.from(document.querySelectorAll('.alternatives tbody tr'), (row) => row.innerText)")
    assert [row.split() for row in rows] == [
        ["␣blue", "20.0%", "75.0%"],
        ["other1", "10.0%", "25.0%"],
        ["other2", "6.7%", "removed", "by", "top-k"],
    ]
    assert "top-k: 2 of 3 left, 30.0% of the probability" in card
    browser.point("h1")
    assert "Point at a token" in browser.text(".card")


def test_arcs_lead_to_what_was_read_and_their_width_is_its_share(show: Show) -> None:
    value = reply_of(TEXTS)
    browser = show(value)
    browser.point(token(3))
    (prompt, reply) = value["tokens"][3]["attention"]["read"]
    assert prompt["position"] < PROMPT_TOKENS == reply["position"]
    arcs = browser.run(
        "Array.from(document.querySelectorAll('.arcs path'),"
        " (arc) => [Number(arc.dataset.share), Number(arc.getAttribute('stroke-width'))])"
    )
    assert [share for share, _ in arcs] == [prompt["weight"], reply["weight"]]
    assert arcs[0][1] == 2 * arcs[1][1]
    assert browser.text(".chip.read") == "␣place"
    assert browser.text(".card").count("50.0%") == 1 and "40.0%" in browser.text(".card")


def test_a_click_pins_and_keys_walk_pin_and_let_go(show: Show) -> None:
    browser = show(reply_of(TEXTS))

    def heading() -> Any:
        return browser.run("document.querySelector('.card h2')?.innerText ?? null")

    browser.click(token(1))
    browser.point("h1")
    assert heading() == "␣sky"
    browser.point(token(4))
    assert heading() == "␣today"
    browser.point("h1")
    browser.press("ArrowRight")
    assert heading() == "␣is"
    browser.press("End")
    assert heading() == "."
    browser.press("ArrowRight")
    browser.press("ArrowLeft")
    assert heading() == "␣today"
    browser.press("Enter")
    assert heading() is None
    browser.press("Home")
    browser.press("Escape")
    assert heading() is None


def test_arrows_up_and_down_stay_in_their_column(show: Show) -> None:
    browser = show(reply_of([" word"] * 100))
    browser.click(token(2))
    browser.press("ArrowDown")
    below = browser.run("Number(document.querySelector('.pinned').dataset.index)")
    assert 5 < below < 40
    browser.press("ArrowUp")
    assert browser.run("Number(document.querySelector('.pinned').dataset.index)") == 2


def test_digits_choose_what_colors_the_text(show: Show) -> None:
    browser = show(reply_of(TEXTS))

    def bands() -> Any:
        return browser.run("Array.from(document.querySelectorAll('.token'), (one) => one.className.slice(-5))")

    assert bands() == ["band1", *["band2"] * 3, *["band3"] * 2]
    browser.press("2")
    assert bands() == ["band1"] * 6 and "after the filters" in browser.text(".legend")
    browser.press("3")
    assert bands() == ["band1"] * 6 and "bits" in browser.text(".legend")
    browser.press("4")
    assert bands() == ["band0"] * 6
    browser.click("[data-name=none]")
    assert bands() == ["token"] * 6 and browser.text(".legend") == ""


def test_the_curve_of_surprise_is_pointed_at_too(show: Show) -> None:
    browser = show(reply_of(TEXTS))
    browser.point(".curve")
    assert "#3 ␣blue: 2.32 bits" in browser.text(".surprise figcaption")
    assert browser.text(".card h2") == "␣blue"


@pytest.mark.parametrize(
    "text", ["</script><b id=evil>", "<img src=x onerror=alert(1)>", "\u202egnp.exe", "🙂", "\ud83d", "\x1b[2J"]
)
def test_hostile_text_stays_text(show: Show, text: str) -> None:
    browser = show(reply_of(["a", text, "b"], prompt=text))
    browser.click(token(1))
    assert browser.run("document.querySelector('#evil, main img')") is None
    shown = browser.run(f"document.querySelector('{token(1)}').textContent")
    assert "\u202e" not in shown and "\x1b" not in shown
    assert json.loads(browser.run("document.getElementById('value').textContent"))["tokens"][1]["text"] == text
    if text.isprintable() and text != "\ud83d":
        assert shown == text
    assert browser.console == []


def test_a_token_of_a_megabyte_is_cut(show: Show) -> None:
    browser = show(reply_of(["a", "x" * (1 << 20), "b"]))
    browser.click(token(0))
    browser.press("ArrowRight")
    assert "(1048576 characters)" in browser.text(".card h2") and len(browser.text(".card")) < 2000
    assert browser.run(f"document.querySelector('{token(1)}').textContent.length") < 21000


def test_a_reply_of_2000_tokens_is_a_page_below_its_limit(show: Show, tmp_path: Path) -> None:
    browser = show(reply_of([f" word{number}" for number in range(2000)], top=8))
    assert (tmp_path / "page.html").stat().st_size < LARGEST_PAGE
    browser.click(token(1999))
    assert "␣word1999" in browser.text(".card")


def test_the_page_is_a_table_without_scripts(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page(reply_of(TEXTS), PageAbout()), encoding="utf-8")
    browser.open(path, scripts=False)
    assert "other1 16.7%" in browser.text("noscript .static") and browser.text("noscript .text") == "".join(TEXTS)
    assert browser.run("document.getElementById('view').children.length") == 0
    browser.screenshot(screenshots(tmp_path) / "without-scripts.png")


def test_light_dark_and_print_differ(show: Show, tmp_path: Path) -> None:
    browser = show(reply_of(TEXTS))
    browser.click(token(3))
    backgrounds = []
    for name, dark, media in (("light", False, ""), ("dark", True, ""), ("print", False, "print")):
        browser.prefer(dark=dark, media=media)
        backgrounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        shows = browser.run("getComputedStyle(document.querySelector('.choice')).display")
        assert shows == ("none" if media else "flex")
        browser.screenshot(screenshots(tmp_path) / f"reply-{name}.png")
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(15, 18, 22)", "rgb(255, 255, 255)"]
