"""The pages of a token's card, of neurons and of experts in a real browser: they show the numbers of the JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.inspection.feed_forward.moe_routing import ExpertRouting
from llmcli.views.inspect import moe_routing, neurons, token_card
from llmcli.views.page.page import PageAbout, page
from llmcli.views.terminal.to_json import json_value
from tests.support.browser.chromium import Browser
from tests.support.browser.pages import Show, screenshots, token
from tests.support.inspections import neurons as fired
from tests.support.inspections.moe_routing import FIRST, SECOND, TOKENS
from tests.support.inspections.token_card import CARD, VERIFY

pytestmark = pytest.mark.slow
CARD_JSON = json_value(token_card.SCHEMA, replace(CARD, verify=VERIFY))
RANKED = json_value(neurons.SCHEMA, fired.RANKED)
ALONG = json_value(neurons.ALONG_SCHEMA, fired.along(0.5, None, -4.0, 2.0))
ROUTED = json_value(moe_routing.SCHEMA, ExpertRouting(TOKENS, (FIRST, SECOND), (0,)))


def bars(browser: Browser) -> Any:
    """The shares of the bars of either sign, negative ones below 0."""
    return browser.run(
        "Array.from(document.querySelectorAll('.signed'), (bar) =>"
        " (bar.firstChild.className === 'negative' ? -1 : 1) * Number(bar.dataset.share))"
    )


def pictures(browser: Browser, folder: Path, name: str) -> None:
    for dark in (False, True):
        browser.prefer(dark=dark)
        browser.screenshot(screenshots(folder) / f"{name}-{'dark' if dark else 'light'}.png")


def test_the_card_of_a_token_has_all_its_parts(show: Show, tmp_path: Path) -> None:
    browser = show(CARD_JSON)
    shown = browser.text("main")
    expected = (
        "␣Paris token 6, after ␣is",
        "probability 75.0% · rank 1 · entropy 2.65 bits",
        "60.0%",
        "␣France #4",
        "7.40 = -3.60 mean +0.10 embedding +9.00 attention +1.90 feed-forward",
        "␣France 88.0% #4",
        "1.1005",
        "␣capitals",
        "head 0.2 drawn at random",
        "all 3 of them",
        "39.5%",
    )
    assert [part for part in expected if part not in shown] == []
    assert bars(browser)[:4] == pytest.approx([0, 0.5 / 6, 1, -1.5 / 6])
    pictures(browser, tmp_path, "token")


def test_neurons_are_bars_of_either_sign(show: Show, tmp_path: Path) -> None:
    browser = show(RANKED)
    rows = browser.run(
        "Array.from(document.querySelectorAll('.neurons tbody tr'), (row) => row.innerText.split(/\\s+/))"
    )
    assert rows[0] == ["29.864", "-1.87", "+8.3", "nery", "[/b]", "␣French"]
    assert rows[1][:3] == ["3.12.7", "+1.40", "-22.4"] and rows[2][0] == "3.shared.8"
    assert bars(browser) == pytest.approx([-1, 1.4 / 1.87, 0])
    pictures(browser, tmp_path, "neurons")


def test_a_neuron_is_followed_in_the_text(show: Show) -> None:
    browser = show(ALONG)
    assert "#2" in browser.text(".card h2") and "fires -4.00" in browser.text(".card")
    classes = browser.run("Array.from(document.querySelectorAll('.token'), (one) => one.classList[1])")
    assert classes == ["amount1", "unknown", "amount4", "amount3"]
    browser.point(token(1))
    assert "its expert was not chosen" in browser.text(".card")


def test_experts_of_a_token_and_the_load_of_the_block(show: Show, tmp_path: Path) -> None:
    browser = show(ROUTED)
    browser.press("ArrowRight")
    card = browser.text(".card")
    assert "␣Paris #1 in block 1" in card and "0.60" in card and "75.0% of an even load" in card
    rows = browser.run("Array.from(document.querySelectorAll('.card tbody tr'), (row) => row.innerText.split(/\\s+/))")
    assert rows == [["0", "0.60"], ["3", "0.40"], ["0", "50.0%"], ["1", "33.3%"], ["3", "16.7%"], ["2", "0.0%"]]
    browser.press("ArrowDown")
    assert "in block 2" in browser.text(".card") and "2.00" in browser.text(".card")
    assert "without experts: block 0" in browser.text("figcaption")
    pictures(browser, tmp_path, "experts")


@pytest.mark.parametrize(
    ("value", "cells"),
    [
        (CARD_JSON, ["␣Paris", "75.0%", "1.4", "+2.48", "1.1005"]),
        (RANKED, ["3.12.7", "+1.40", "-22.4", "␣capitals"]),
        (ALONG, ["␣ccc", "-4.00"]),
        (ROUTED, ["block 2", "0 3", "␣Paris"]),
    ],
)
def test_a_table_without_scripts_has_the_figures(value: dict[str, Any], cells: list[str]) -> None:
    table = page(value, PageAbout()).split("<noscript>")[1].split("</noscript>")[0]
    assert [cell for cell in cells if cell not in table] == []
