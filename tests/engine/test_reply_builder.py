"""A reply, alone or in a batch, ends at a stop token, a stop string, its limit or the context: whichever is first."""

from __future__ import annotations

import pytest

from llmcli.engine.events import FinishReason
from llmcli.engine.reply_builder import ReplyBuilder, StopRules
from llmcli.engine.sampling.params import SamplingParams
from llmcli.text.tokenizer import Tokenizer
from tests.support.models.puppet import ids_of
from tests.support.models.tiny import byte_tokenizer

STOP = 7
PROMPT = ids_of(b"abc")


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    return Tokenizer(byte_tokenizer(), {}, source="made")


@pytest.mark.parametrize(
    ("tokens", "settings", "context", "reason", "text", "generated"),
    [
        ([*ids_of(b"de"), STOP], {}, 100, "stop", "de", 2),
        ([*ids_of(b"de"), None], {}, 100, "stop", "de", 2),
        (ids_of(b"defg"), {"max_tokens": 3}, 100, "length", "def", 3),
        (ids_of(b"defg"), {}, 5, "context", "de", 2),
        (ids_of(b"defg"), {"stop": ("ef",)}, 100, "stop_string", "d", 3),
        # The stop string is complete with the last token that the limit allows.
        (ids_of(b"defg"), {"stop": ("ef",), "max_tokens": 3}, 6, "stop_string", "d", 3),
        (ids_of(b"defg"), {"stop": ("fx",), "max_tokens": 3}, 100, "length", "def", 3),
        (ids_of(b"d!g"), {"stop": ("d",)}, 100, "stop_string", "", 1),
        (ids_of(b"d!g"), {}, 100, "stop", "d", 2),
    ],
)
def test_the_first_rule_that_holds_ends_a_reply(
    bytewise: Tokenizer,
    tokens: list[int | None],
    settings: dict[str, object],
    context: int,
    reason: FinishReason,
    text: str,
    generated: int,
) -> None:
    params = SamplingParams(**settings)  # type: ignore[arg-type]
    rules = StopRules.of([STOP, 1 << 40, -1], ["!"], context, bytewise.vocab_size)
    assert rules.ids == {STOP}
    reply = ReplyBuilder(bytewise, PROMPT, params, rules)
    assert reply.longest == min(context, len(PROMPT) + (params.max_tokens or context))
    shown, coming = "", iter(tokens)
    while reply.reason is None:
        shown += reply.push(next(coming)) or ""
    assert (reply.reason, shown + reply.finish(), reply.generated_tokens) == (reason, text, generated)
    assert reply.met_stop_token == (tokens[-1] in (STOP, None))
    assert reply.ids == [*PROMPT, *(token for token in tokens[:generated] if token is not None)]


def test_tokens_that_a_reply_began_with_are_text_but_count_as_prompt(bytewise: Tokenizer) -> None:
    begun = ids_of(b"xy")
    rules = StopRules.of([], [], 100, bytewise.vocab_size)
    reply = ReplyBuilder(bytewise, PROMPT, SamplingParams(max_tokens=2), rules, begun=begun)
    assert "".join(reply.push_begun(token) for token in begun) == "xy"
    assert (reply.count, reply.generated_tokens, reply.prompt_tokens) == (2, 0, 5)
    assert [reply.push(token) for token in ids_of(b"zw")] == ["z", "w"]
    assert (reply.reason, reply.count, reply.generated_tokens) == ("length", 4, 2)
