"""The pages of attention, of one head and of all heads in a real browser: they show the numbers of the JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.engine.events import AttentionRow, Read
from llmcli.inspection.attention.all_heads import HeadPattern, HeadPatterns
from llmcli.inspection.attention.head_scores import Head, HeadAblation
from llmcli.inspection.attention.pattern import Pattern
from llmcli.inspection.attention.summary import AttentionSummary, BlockReading
from llmcli.inspection.core.tokens import Token
from llmcli.views.inspect.attention import HEADS_SCHEMA as ALL_HEADS_SCHEMA
from llmcli.views.inspect.attention import PATTERN_SCHEMA, SCHEMA
from llmcli.views.inspect.head_scores import SCHEMA as HEADS_SCHEMA
from llmcli.views.terminal.to_json import json_value
from tests.support.browser.chromium import Browser
from tests.support.browser.pages import Show, screenshots, token
from tests.support.inspections.head_scores import ATLAS

pytestmark = pytest.mark.slow
TOKENS = tuple(
    Token(number, text, text.encode()) for number, text in enumerate(["<s>", " A", " B", " </script>", " A"])
)


def row(position: int, *read: tuple[int, float]) -> AttentionRow:
    return AttentionRow(position, 0.5, 0.125, tuple(Read(at, TOKENS[at].text, weight) for at, weight in read))


def attention(*, single: bool = False) -> dict[str, Any]:
    rows = (row(3, (1, 0.75), (2, 0.25)), row(4, (2, 0.6)))
    blocks = (BlockReading(0, row(4, (1, 0.9))), BlockReading(1, row(4, (3, 0.3))))
    found = AttentionSummary(TOKENS, rows[1:], blocks) if single else AttentionSummary(TOKENS, rows, ())
    return json_value(SCHEMA, found)


def arcs(browser: Browser) -> Any:
    """The shares of the arcs that are drawn."""
    return browser.run("Array.from(document.querySelectorAll('.arcs path'), (arc) => Number(arc.dataset.share))")


def test_pointing_at_a_token_shows_what_it_read(show: Show) -> None:
    browser = show(attention())
    assert "#4" in browser.text(".card h2") and arcs(browser) == [0.6]
    browser.point(token(3))
    card = browser.text(".card")
    assert "␣</script>" in card and "predicts ␣A" in card and arcs(browser) == [0.75, 0.25]
    assert [share in card for share in ("50.0%", "12.5%", "75.0%", "25.0%")] == [True] * 4
    assert browser.run(f"document.querySelector('{token(1)}').classList.contains('amount3')")
    browser.point(token(1))
    assert "no row for token 1" in browser.text(".card") and arcs(browser) == []


def test_a_character_of_several_tokens_is_shown_by_the_last(show: Show) -> None:
    parts = tuple(Token(number, "\ufffd", bytes([byte])) for number, byte in enumerate("é🙂".encode()))
    value = json_value(SCHEMA, AttentionSummary((*parts, Token(9, "\ufffd", b"\xff")), (row(1),), ()))
    browser = show(value)
    shown = browser.run("Array.from(document.querySelectorAll('.token'), (one) => one.textContent)")
    assert shown == ["·", "é", "·", "·", "·", "🙂", "\ufffd"]
    browser.point(token(1))
    assert "\\xa9" in browser.text(".card h2") and "\\xf0" not in browser.text(".card h2")


def test_a_block_is_chosen_and_let_go(show: Show) -> None:
    browser = show(attention(single=True))
    assert arcs(browser) == [0.6]
    browser.click("[data-place='1'] button")
    assert arcs(browser) == [0.3] and "block 1" in browser.text(".card")
    browser.click("[data-place='0'] button")
    assert arcs(browser) == [0.9]
    browser.click("[data-place='0'] button")
    assert arcs(browser) == [0.6] and browser.run("document.querySelector('[aria-pressed=true]')") is None


def test_a_pattern_is_pointed_at_in_the_map_and_in_the_text(show: Show, tmp_path: Path) -> None:
    weights = (
        (1.0, 0, 0, 0, 0),
        (0.5, 0.5, 0, 0, 0),
        (0.25, 0.5, 0.25, 0, 0),
        (0.2, 0, 0.7, 0.1, 0),
        (0.1, 0.6, 0, 0, 0.3),
    )
    browser = show(json_value(PATTERN_SCHEMA, Pattern(TOKENS, 2, 1, tuple(range(5)), weights)))
    assert arcs(browser) == [0.6]
    browser.point(token(3))
    assert arcs(browser) == [0.7] and "70.0%" in browser.text(".card") and "10.0%" in browser.text(".card")
    browser.point(".map")
    assert "#2 ␣B read 25.0% of #2 ␣B" in browser.text("figcaption") and arcs(browser) == [0.5]

    def pixel(x: int, y: int) -> Any:
        place = f"getImageData({20 * x + 9}, {20 * y + 9}, 1, 1)"
        return browser.run(f"Array.from(document.querySelector('.map').getContext('2d').{place}.data)")

    assert (pixel(0, 0), pixel(1, 0), pixel(2, 2)) == ([10, 31, 77, 255], [0, 0, 0, 0], [188, 214, 245, 255])
    browser.prefer(dark=True)
    browser.settle()
    assert pixel(0, 0) == [215, 235, 255, 255]
    browser.screenshot(screenshots(tmp_path) / "pattern-dark.png")


def test_a_click_enlarges_a_head_and_its_weights_are_raw_or_weighed(show: Show, tmp_path: Path) -> None:
    pattern = ((1.0,), (0.5, 0.5), (0.5, 0.25, 0.25), (0.5, 0.25, 0.25, 0.0), (0.2, 0.6, 0.1, 0.1, 0.0))
    even = tuple(tuple(round(1 / (at + 1), 4) for _ in range(at + 1)) for at in range(5))
    heads = (
        HeadPattern(0, 0, even, (1.0,) * 5),
        HeadPattern(3, 0, even, (1.0,) * 5),
        HeadPattern(3, 1, pattern, (0.25, 0.5, 1, 1, 1)),
    )
    browser = show(json_value(ALL_HEADS_SCHEMA, HeadPatterns(TOKENS, heads)))
    assert "block 0, head 0" in browser.text("figcaption") and arcs(browser) == [0.2] * 3
    x, y = browser.middle("[data-layer='3']")
    browser.click_at(x + 19, y)
    assert "block 3, head 1" in browser.text("figcaption") and arcs(browser) == [0.6, 0.1, 0.1]
    browser.press("2")
    assert "by value length" in browser.text("[aria-pressed=true]")
    # 0.2 * 0.25, 0.6 * 0.5, 0.1 and 0.1 of their sum, 0.55
    assert arcs(browser) == pytest.approx([0.3 / 0.55, 0.1 / 0.55, 0.1 / 0.55]) and "9.1%" in browser.text(".card")
    browser.screenshot(screenshots(tmp_path) / "all-heads-light.png")
    browser.run("document.querySelector('.scroll').focus()")
    for key, head in (
        ("ArrowLeft", "block 3, head 0"),
        ("ArrowUp", "block 0, head 0"),
        ("ArrowRight", "block 0, head 0"),
    ):
        browser.press(key)
        assert head in browser.text("figcaption")


def test_heads_are_colored_by_what_they_attend_to(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(HEADS_SCHEMA, ATLAS))
    kinds = "Array.from(document.querySelectorAll('.heads td'), (cell) => cell.className)"
    assert browser.run(kinds) == ["kind-previous", "kind-sink", "kind-sink", "kind-none"]
    browser.point("[data-head='1.0']")
    card = browser.text(".card")
    assert "head 0 of block 1" in card and "30.0%" in card and "62.5%" in card and "80.0%" in card
    browser.point("h1")
    browser.press("2")
    assert browser.run(kinds) == ["amount4", "amount1", "amount0", "amount0"]
    browser.screenshot(screenshots(tmp_path) / "heads-light.png")
    browser.run("document.querySelector('.heads').focus()")
    for key, head in (("ArrowDown", "0 of block 0"), ("ArrowRight", "1 of block 0"), ("ArrowDown", "1 of block 1")):
        browser.press(key)
        assert browser.text(".card h2") == f"head {head}"
    browser.press("ArrowDown")
    assert browser.text(".card h2") == "head 1 of block 1"
    browser.press("Escape")
    assert "Point at a head" in browser.text(".card")


def test_the_loss_without_heads_is_shown_in_bits(show: Show) -> None:
    ablation = HeadAblation((Head(1, 0),), 0.6931471805599453, 1.3862943611198906, (1.0397207708399179,))
    browser = show(json_value(HEADS_SCHEMA, replace(ATLAS, ablation=ablation)))
    assert "1.00 bits before, 2.00 bits without the 1 strongest induction heads (1.0), 1.50 bits" in browser.text(
        ".summary"
    )
