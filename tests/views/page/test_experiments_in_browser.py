"""The pages of hidden words, causal traces, compared models, needles and costs in a real browser."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmcli.inspection.evaluation.cost import model_cost
from llmcli.views.inspect.causal_trace import SCHEMA as TRACE_SCHEMA
from llmcli.views.inspect.cost import SCHEMA as COST_SCHEMA
from llmcli.views.inspect.model_diff import SCHEMA as COMPARE_SCHEMA
from llmcli.views.inspect.needle import SCHEMA as NEEDLE_SCHEMA
from llmcli.views.inspect.prompt_ablation import SCHEMA as WITHOUT_SCHEMA
from llmcli.views.inspect.prompt_ablation import WORDS_SCHEMA
from llmcli.views.terminal.to_json import json_value
from tests.support.browser.chromium import Browser
from tests.support.browser.pages import Show, screenshots, token
from tests.support.inspections import needle, prompt_ablation
from tests.support.inspections.causal_trace import TRACE
from tests.support.inspections.model_diff import COMPARISON
from tests.support.models.published_sizes import SMOLLM2

pytestmark = pytest.mark.slow


def classes(browser: Browser, selector: str) -> Any:
    return browser.run(f"Array.from(document.querySelectorAll('{selector}'), (one) => one.className)")


def drawn_heights(browser: Browser) -> Any:
    """The height of the column at each word, in thousandths of the tallest."""
    return browser.run(
        "Array.from(document.querySelectorAll('.strip i'), "
        "(one) => Math.round(1000 * parseFloat(one.style.height) / 2.2))"
    )


def test_each_hidden_word_has_its_change_in_the_order_of_the_text(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(WORDS_SCHEMA, prompt_ablation.SCAN))
    assert browser.run("Array.from(document.querySelectorAll('.strip .token'), (one) => one.innerText.trim())") == [
        "France",
        "⏎",
        "is",
    ]
    assert drawn_heights(browser) == [1000, 250, 125] and classes(browser, ".strip i") == ["up", "up", "down"]
    assert [name.split()[1] for name in classes(browser, ".strip .token")] == ["change4", "change3", "change1"]
    card = browser.text(".card")
    assert "+5.77 bits" in card and "#3, 4" in card and "77.9%" in card and "1.4%" in card
    browser.point(token(2))
    assert "-0.72 bits" in browser.text(".card") and "ends the prompt" in browser.text(".card")
    browser.click("[data-word='1']")
    browser.point("h1")
    assert "+1.44 bits" in browser.text(".card")
    browser.prefer(dark=True)
    browser.screenshot(screenshots(tmp_path) / "words-dark.png")


def test_an_answer_that_becomes_impossible_has_the_tallest_column(show: Show) -> None:
    first, *others = prompt_ablation.SCAN.words
    scan = replace(prompt_ablation.SCAN, words=(replace(first, hidden=-math.inf), *others))
    browser = show(json_value(WORDS_SCHEMA, scan))
    assert drawn_heights(browser) == [1000, 1000, 500]
    assert "∞ bits" in browser.text(".card") and "0.0%" in browser.text(".card")


def test_the_answer_is_shown_with_a_part_hidden_and_removed(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(WITHOUT_SCHEMA, prompt_ablation.RESULT))
    assert "␣France␛" in browser.text(".summary") and "tokens 3, 4, 7" in browser.text(".summary")
    assert [share in browser.text(".card") for share in ("75.0%", "25.0%", "<0.1%")] == [True] * 3
    assert "band2" in classes(browser, ".token")[0]
    browser.press("3")
    assert "band4" in classes(browser, ".token")[0] and "band2" in classes(browser, ".token")[1]
    browser.press("ArrowRight")
    assert "50.0%" in browser.text(".card") and "␛" in browser.text(".card h2")
    rows = browser.text(".totals")
    assert "15.15" in rows and "+13.71" in rows and "⏎" in rows and "12.5%" in rows
    browser.screenshot(screenshots(tmp_path) / "without-light.png")


def test_without_a_removed_prompt_there_are_two_cases(show: Show) -> None:
    result = prompt_ablation.RESULT
    alone = replace(
        result,
        answer=tuple(replace(one, removed=None) for one in result.answer),
        total=replace(result.total, removed=None),
        instead=replace(result.instead, removed=None),
    )
    browser = show(json_value(WITHOUT_SCHEMA, alone))
    assert browser.run("document.querySelectorAll('.choice button').length") == 2


def test_a_trace_has_three_maps_that_are_pointed_at_and_walked_through(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(TRACE_SCHEMA, TRACE))
    # Tokens before the subject are left out; the best state is shown first.
    assert browser.text(".row-labels").split() == ["*␣Rome", "␣</b>", "␣of"]
    assert "␣of #3, block 1" in browser.text(".card h2")
    card = browser.text(".card")
    assert [share in card for share in ("75.0%", "10.0%", "55.0%", "5.0%", "80.0%")] == [True] * 5
    browser.point("[data-kind='feed_forward']")
    assert "␣</b> #2, block 1" in browser.text(".card h2") and "15.0%" in browser.text(".card")
    browser.click("[data-kind='feed_forward']")
    browser.press("ArrowUp")
    assert "␣Rome #1, block 1" in browser.text(".card h2") and "part of the subject" in browser.text(".card")
    assert browser.run("document.querySelectorAll('.chart .line').length") == 3
    values = "Array.from(document.querySelectorAll('.series0 circle'), (one) => Number(one.dataset.value))"
    assert browser.run(values) == [0.7, 0.3, 0.05]

    def pixel(kind: str, block: int, row: int) -> Any:
        place = f"getContext('2d').getImageData({block}, {row}, 1, 1).data"
        return browser.run(f"Array.from(document.querySelector('[data-kind={kind}]').{place})")

    # From what is left with noise to the highest: --amount0 and --amount4.
    assert pixel("feed_forward", 0, 2) == [241, 245, 251, 255]
    browser.prefer(dark=True)
    browser.settle()
    assert pixel("feed_forward", 0, 2) == [0, 0, 40, 255]
    browser.screenshot(screenshots(tmp_path) / "trace-dark.png")


def test_a_compared_text_is_colored_by_its_difference(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(COMPARE_SCHEMA, COMPARISON))
    names = classes(browser, ".main > .text .token")
    assert ["unknown" in names[0], "band1" in names[1], "band4" in names[2]] == [True] * 3
    card = browser.text(".card")
    assert "#2" in card and "1.5000 bits" in card and "not the same" in card
    assert [share in card for share in ("50.0%", "12.5%", "␣red", "60.0%", "␣</b>", "40.0%")] == [True] * 6
    browser.press("2")
    assert "band1" in classes(browser, ".main > .text .token")[2]
    browser.press("3")
    assert "band3" in classes(browser, ".main > .text .token")[2]
    browser.point(".main > .text " + token(0))
    assert "not compared" in browser.text(".card")
    browser.screenshot(screenshots(tmp_path) / "compare-light.png")


def test_two_continuations_show_what_only_one_of_them_has(show: Show) -> None:
    browser = show(json_value(COMPARE_SCHEMA, COMPARISON))
    first, second = (classes(browser, f"[data-side={side}] .token") for side in ("first", "second"))
    assert ["differs" in name for name in first] == [False, True, False]
    assert ["differs" in name for name in second] == [False, True, True, False]
    assert "parts" in first[1] and "parts" in second[1]
    assert "0.25 bits" in browser.text("[data-side=first]") and "ended after 4 tokens" in browser.text(
        "[data-side=second]"
    )


def test_a_needle_has_a_curve_with_its_ranges(show: Show, tmp_path: Path) -> None:
    browser = show(json_value(NEEDLE_SCHEMA, needle.RESULT))
    ranges = "Array.from(document.querySelectorAll('.interval'), (one) => [one.dataset.low, one.dataset.high])"
    assert browser.run(ranges) == [["0.82", "0.96"], ["0.05", "0.25"], ["1", "1"]]
    browser.point(".chart .level")
    assert "depth 12.5%" in browser.text(".card") and "25.0%" in browser.text(".card")
    browser.click(".chart .level")
    browser.press("ArrowRight")
    browser.point("h1")
    assert "depth 100%" in browser.text(".card")
    browser.press("Escape")
    assert "Point at a depth" in browser.text(".card")
    browser.screenshot(screenshots(tmp_path) / "needle-light.png")


def test_a_cost_is_a_curve_over_the_length(show: Show, tmp_path: Path) -> None:
    cost = model_cost("SmolLM2", replace(SMOLLM2, context_length=256), context=100)
    browser = show(json_value(COST_SCHEMA, cost))
    values = "Array.from(document.querySelectorAll('.series0 circle'), (one) => Number(one.dataset.value))"
    places = sorted({one.tokens: one for one in (*cost.curve, *cost.lengths)}.items())
    assert [number for number, _ in places] == [64, 100, 128, 256]
    assert browser.run(values) == [one.kv_bytes for _, one in places]
    browser.press("2")
    assert browser.run(values) == [one.flops_to_read for _, one in places]
    browser.press("4")
    assert browser.run(values) == [one.attention_share for _, one in places]
    browser.run("document.querySelector('.chart').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert "100 tokens" in browser.text(".card h2") and "as asked" in browser.text(".card")
    browser.prefer(dark=True)
    browser.screenshot(screenshots(tmp_path) / "cost-dark.png")
