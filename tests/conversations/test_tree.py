"""The tree of a conversation, built from its records."""

from __future__ import annotations

import pytest

from llmcli.conversations.records import (
    Begin,
    End,
    HeadRecord,
    More,
    Question,
    Record,
    ReplyRecord,
    SettingsRecord,
    Window,
    from_line,
    to_line,
)
from llmcli.conversations.tree import SUMMARY_REQUEST, Tree
from llmcli.errors import LlmcliError
from llmcli.text.chat.prompt import Message

TIME = "2026-01-02T03:04:05+00:00"


def exchange_records(
    n: int, after: int, question: str, reply: str, ids: tuple[int, ...], reason: str = "stop"
) -> list[Record]:
    return [
        Question(n, after, question, TIME),
        ReplyRecord(n + 1, n, "m", {"seed": 1}, TIME),
        More(n + 1, reply[:1], ids[:1]),
        More(n + 1, reply[1:], ids[1:]),
        End(n + 1, reason),
    ]


def tree_of(*records: Record) -> Tree:
    tree = Tree()
    for record in records:
        # Through the line format of files.
        tree.apply(from_line(to_line(record)))
    return tree


def texts(tree: Tree) -> list[str]:
    return [message.content for message in tree.messages(model="m", vocab_size=100)]


TWO = [*exchange_records(1, 0, "One?", "yes", (5, 6)), *exchange_records(3, 2, "Two?", "no", (7, 8))]


def test_messages_keep_the_order_and_ids_of_the_branch() -> None:
    tree = tree_of(Begin("id", TIME, "llmcli"), SettingsRecord("m", None, "Be brief."), *TWO)
    assert tree.messages(model="m", vocab_size=9) == [
        Message("user", "One?"),
        Message("assistant", "yes", (5, 6), is_reply=True),
        Message("user", "Two?"),
        Message("assistant", "no", (7, 8), is_reply=True),
    ]
    assert tree.title() == "One?"
    assert tree.replies == 2


@pytest.mark.parametrize(("model", "vocab_size"), [("other", 100), ("m", 6)])
def test_token_ids_are_kept_only_for_the_same_model(model: str, vocab_size: int) -> None:
    assert tree_of(*TWO).messages(model=model, vocab_size=vocab_size)[1] == Message(
        "assistant", "yes", None, is_reply=True
    )


def test_a_reply_cut_at_a_stop_string_is_encoded_from_its_text() -> None:
    tree = tree_of(*exchange_records(1, 0, "One?", "yes", (5, 6), "stop_string"))
    assert tree.messages(model="m", vocab_size=100)[1].ids is None


def test_undone_messages_remain_as_a_branch() -> None:
    tree = tree_of(*TWO, HeadRecord(2), *exchange_records(5, 2, "Three?", "maybe", (9,)))
    assert texts(tree) == ["One?", "yes", "Three?", "maybe"]
    assert [leaf.n for leaf in tree.leaves()] == [4, 6]
    tree.apply(HeadRecord(4))
    assert texts(tree) == ["One?", "yes", "Two?", "no"]
    tree.apply(HeadRecord(0))
    assert texts(tree) == []
    assert tree.title() == "One?"


def test_a_retried_reply_is_a_branch() -> None:
    tree = tree_of(*TWO, ReplyRecord(5, 3, "m", {}, TIME), More(5, "perhaps", (9,)))
    assert texts(tree)[-1] == "perhaps"
    assert tree.nodes[5].is_cut
    assert not tree.nodes[4].is_cut


def test_an_unanswered_question_is_not_in_the_context() -> None:
    tree = tree_of(*TWO, Question(5, 4, "Three?", TIME))
    pending = tree.unanswered()
    assert pending is not None
    assert pending.text == "Three?"
    assert texts(tree) == ["One?", "yes", "Two?", "no"]


def test_a_window_omits_earlier_messages_on_its_branch_only() -> None:
    tree = tree_of(*TWO, Window(2))
    assert texts(tree) == ["Two?", "no"]
    assert [node.n for node in tree.left_out()] == [1, 2]
    tree.apply(Window(4, "They said yes and no."))
    assert texts(tree) == [SUMMARY_REQUEST, "They said yes and no."]
    tree.apply(HeadRecord(0))
    assert texts(tree) == []


@pytest.mark.parametrize(
    "record",
    [
        Question(1, 0, "again", TIME),
        Question(9, 7, "after nothing", TIME),
        Question(9, 3, "after a question", TIME),
        ReplyRecord(9, 4, "m", {}, TIME),
        ReplyRecord(9, 0, "m", {}, TIME),
        Question(0, 0, "no number", TIME),
        More(3, "no reply", ()),
        End(7, "stop"),
        HeadRecord(7),
    ],
)
def test_records_out_of_order_are_refused(record: Record) -> None:
    with pytest.raises(LlmcliError, match="conversation"):
        tree_of(*TWO, record)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{}",
        '{"kind": "question"}',
        '{"kind": "question", "n": "1", "after": 0, "text": "", "time": ""}',
        '{"kind": "question", "n": true, "after": 0, "text": "", "time": ""}',
        '{"kind": "more", "n": 1, "text": "", "ids": [-1]}',
        '{"kind": "more", "n": 1, "text": "", "ids": [1.5]}',
        '{"kind": "settings", "model": "m", "source": 3}',
        "[" * 10_000,
    ],
)
def test_invalid_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"not|wrong|missing|nested|Expecting"):
        from_line(line)
