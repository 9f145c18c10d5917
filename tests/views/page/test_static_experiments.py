"""The figures of hidden words, traces, comparisons, needles and costs in a table, for readers without JavaScript."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from typing import Any

from llmcli.inspection.evaluation.cost import model_cost
from llmcli.views.inspect.causal_trace import SCHEMA as TRACE_SCHEMA
from llmcli.views.inspect.cost import SCHEMA as COST_SCHEMA
from llmcli.views.inspect.model_diff import SCHEMA as COMPARE_SCHEMA
from llmcli.views.inspect.needle import SCHEMA as NEEDLE_SCHEMA
from llmcli.views.inspect.prompt_ablation import SCHEMA as WITHOUT_SCHEMA
from llmcli.views.inspect.prompt_ablation import WORDS_SCHEMA
from llmcli.views.page.page import PageAbout, page
from llmcli.views.terminal.to_json import json_value
from tests.support.inspections import needle, prompt_ablation
from tests.support.inspections.causal_trace import TRACE
from tests.support.inspections.model_diff import COMPARISON
from tests.support.models.published_sizes import SMOLLM2


def lines(schema: str, value: Any) -> list[str]:
    """The rows and paragraphs of the part without scripts, with a bar between cells."""
    content = page(json_value(schema, value), PageAbout("tiny"))
    (static,) = re.findall("<noscript>(.*)</noscript>", content, re.DOTALL)
    assert "</b>" not in static
    found = re.findall("<(?:tr|p)>(.*?)</(?:tr|p)>", static)
    return [unescape(re.sub("<.*?>", "|", line).replace("||", "|").strip("|")) for line in found]


def test_each_hidden_word_has_a_row() -> None:
    assert lines(WORDS_SCHEMA, prompt_ablation.SCAN) == [
        "answer ␣Paris, surprise 0.36 bits",
        "hidden word|#|change in bits",
        "␣France|3, 4|+5.77",
        "⏎|5|+1.44",
        "␣is|6|-0.72",
    ]
    impossible = replace(prompt_ablation.SCAN.words[0], hidden=-math.inf)
    assert lines(WORDS_SCHEMA, replace(prompt_ablation.SCAN, words=(impossible,)))[-1] == "␣France|3, 4|infinite"


def test_each_token_of_an_answer_has_a_row() -> None:
    found = lines(WITHOUT_SCHEMA, prompt_ablation.RESULT)
    assert found[1] == "answer|before|hidden|removed" and found[2].startswith("␣Paris|75.0%|25.0%|")
    assert found[-2:] == [
        "all: surprise in bits|1.44|2.89|15.15",
        "first choice|␣Paris 75.0%|␣the 50.0%|⏎ 12.5%",
    ]


def test_a_trace_has_a_table_for_each_kind_of_state() -> None:
    found = lines(TRACE_SCHEMA, TRACE)
    assert found[0] == "answer ␣Italy 80.0%, 5.0% with noise on the subject (*)"
    assert [line for line in found if line.startswith("*")] == [
        "*␣Rome|70.0%|30.0%|5.0%",
        "*␣Rome|60.0%|20.0%|5.0%",
        "*␣Rome|10.0%|5.0%|5.0%",
    ]
    assert "␣</b>|20.0%|10.0%|5.0%" in found


def test_each_compared_token_has_a_row() -> None:
    found = lines(COMPARE_SCHEMA, COMPARISON)
    assert found[2] == "2|␣blue|1.5000|50.0%|12.5%|␣red 60.0%|␣</b> 40.0%"
    assert found[3:] == ["A big:  red red.", "B small:  red </b> blue."]


def test_each_depth_of_a_needle_has_a_row() -> None:
    assert lines(NEEDLE_SCHEMA, needle.RESULT)[3] == "12.5 %|10.0%|5.0%|25.0%|10.0%"


def test_each_part_and_each_length_of_a_cost_has_a_row() -> None:
    found = lines(COST_SCHEMA, model_cost("SmolLM2", SMOLLM2))
    assert "feed forward|79.6 M|79.6 M|159 M" in found and found[-1].startswith("8192|180 MiB|4.06 T|835 M|")
