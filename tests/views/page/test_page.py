"""Pages as files: their policy, their JSON, and the table for readers without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from typing import Any

import pytest

from llmcli.views.page.page import PageAbout, has_page, page
from tests.support.browser.replies import reply_of

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\u202eevil",
    "\u2028",
    "🙂",
    "&lt;",
    "\x1b[2J",
    "x" * 999,
]


def written(value: dict[str, Any], **about: Any) -> str:
    return page(value, PageAbout("tiny", value.get("prompt"), **about))


def embedded(content: str, name: str) -> Any:
    """The JSON object in the script element `name`."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', content, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_page_holds_the_json_as_it_was() -> None:
    value = reply_of(HOSTILE)
    assert embedded(written(value), "value") == value


def test_a_page_runs_and_styles_only_what_its_policy_names() -> None:
    content = written(reply_of(["a"]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', content)
    assert policy is not None and policy[1].startswith("default-src 'none'; ")
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy[1]
    assert not re.findall(r" (?:src|style|on\w+)=", content.split("<script>")[0].split("</style>")[1])


def test_hostile_text_is_escaped_outside_the_json() -> None:
    content = written(reply_of(HOSTILE, prompt=HOSTILE[0]), settings=[("system", "<b>")], note="<i>")
    assert content.count("</script>") == 3 and "alert(1)</script>" not in content
    assert "\u202e" not in content.split('id="value"')[0] and "\u2028" not in content.split('id="about"')[1]
    assert "<strong>&lt;b&gt;</strong>" in content and "&lt;i&gt;" in content


def test_the_title_names_command_model_and_the_first_words() -> None:
    content = written(reply_of(["a"], prompt="Why is\nthe sky " + "very " * 50 + "blue?"))
    title = re.search("<title>(.*)</title>", content)
    assert title is not None and re.fullmatch(r"llm generate · tiny · Why is the sky (very )+very…", title[1])


def test_a_table_has_the_figures_for_readers_without_scripts() -> None:
    content = unescape(written(reply_of(["The", " sky"])))
    (table,) = re.findall("<noscript>(.*)</noscript>", content, re.DOTALL)
    rows = re.findall("<tr>(.*?)</tr>", table)
    assert "could have been" in rows[0] and len(rows) == 3
    assert re.sub("<.*?>", "|", rows[2]).replace("||", "|").startswith("|1|␣sky|33.3%|75.0%|1|1.5|")
    assert "other1 16.7%" in rows[2] and "␣place 50.0%" in rows[2]


def test_a_score_joins_characters_of_several_tokens() -> None:
    parts = [
        {"index": at, "id": at, "text": "\ufffd", "bytes": base64.b64encode(bytes([byte])).decode(), "logprob": None}
        for at, byte in enumerate("é".encode())
    ]
    content = written({"schema": "llmcli.score/1", "tokens": parts})
    assert '<p class="text">é</p>' in content and "<td>\\xc3</td>" in content
    assert content.startswith("<!DOCTYPE html>") and "<title>llm score" in content


def test_the_settings_and_the_version_are_shown() -> None:
    content = written(reply_of(["a"]), settings=[("temperature", 0.5), ("seed", 7)])
    assert (
        "temperature <strong>0.5</strong>" in content
        and "seed <strong>7</strong>" in content
        and "readable model" in content
    )
    assert "seed <strong>7</strong>" in written(reply_of(["a"]))


@pytest.mark.parametrize("value", [{}, {"schema": "llmcli.unknown/1"}, {"tokens": []}])
def test_json_without_a_drawing_has_no_page(value: dict[str, Any]) -> None:
    assert not has_page(value)
