"""Tokens of saved replies are summed by day in the local time zone, and by model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from llmcli.conversations.records import HeadRecord, More, Question, ReplyRecord
from llmcli.conversations.token_counts import (
    CountedReply,
    TokenCount,
    by_day,
    by_model,
    in_total,
    replies_in_log,
    replies_of,
)
from llmcli.conversations.tree import Tree


@pytest.fixture(autouse=True)
def nine_hours_east() -> Iterator[None]:
    with mock.patch.dict(os.environ, {"TZ": "EAST-9"}):
        time.tzset()
        yield
    time.tzset()


def test_replies_on_all_branches_count_on_their_local_day() -> None:
    tree = Tree()
    for record in (
        Question(1, 0, "hi", "2026-01-02T14:59:00+00:00"),
        ReplyRecord(2, 1, "m", {}, "2026-01-02T14:59:59+00:00", 7),
        More(2, "a", (1, 2)),
        HeadRecord(1),
        ReplyRecord(3, 1, "n", {}, "2026-01-02T15:00:00+00:00"),
        More(3, "b", (3,)),
    ):
        tree.apply(record)
    assert list(replies_of(tree)) == [CountedReply("2026-01-02", "m", 7, 2), CountedReply("2026-01-03", "n", 0, 1)]


def test_requests_in_a_log_count_unless_they_are_saved_or_have_no_reply() -> None:
    line = {
        "time": "2026-01-02T15:00:00.123+00:00", "model": "m", "replies": 2, "saved": False,
        "prompt_tokens": 7, "generated_tokens": 5,
    }  # fmt: skip
    lines = [line, line | {"saved": True}, line | {"replies": 0}, {"model": "m"}, [1], line | {"replies": 1}]
    data = [*(json.dumps(each).encode() for each in lines), b"no json", b"\xff"]
    replies = list(replies_in_log(data))
    assert replies == [CountedReply("2026-01-03", "m", 7, 5, 2), CountedReply("2026-01-03", "m", 7, 5, 1)]
    assert in_total(replies) == TokenCount(None, None, 3, 14, 10)


def test_sums_by_day_and_model() -> None:
    replies = [
        CountedReply("2026-01-02", "m", 5, 1),
        CountedReply("2026-01-02", "n", 6, 10),
        CountedReply("2026-01-03", "m", 7, 100),
        CountedReply("2026-01-02", "m", 8, 2),
    ]
    assert by_day(replies) == [
        TokenCount("2026-01-03", "m", 1, 7, 100),
        TokenCount("2026-01-02", "n", 1, 6, 10),
        TokenCount("2026-01-02", "m", 2, 13, 3),
    ]
    assert by_model(replies) == [TokenCount(None, "m", 3, 20, 103), TokenCount(None, "n", 1, 6, 10)]
    assert in_total(replies) == TokenCount(None, None, 4, 26, 113)
    assert in_total([]) == TokenCount(None, None, 0, 0, 0)
