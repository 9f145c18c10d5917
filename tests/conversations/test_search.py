"""Messages are found by texts in any case, with the place in a line of context."""

from __future__ import annotations

import pytest

from llmcli.conversations.records import HeadRecord, More, Question, Record, ReplyRecord
from llmcli.conversations.search import TextQuery
from llmcli.conversations.tree import Tree

TIME = "2026-01-02T03:04:05+00:00"


def tree_of(*texts: str, more: tuple[Record, ...] = ()) -> Tree:
    """Questions and replies in turn; each reply is saved in two parts."""
    tree = Tree()
    for n, text in enumerate(texts, 1):
        if n % 2:
            tree.apply(Question(n, n - 1, text, TIME))
        else:
            tree.apply(ReplyRecord(n, n - 1, "m", {}, TIME))
            tree.apply(More(n, text[:3], (1,)))
            tree.apply(More(n, text[3:], (2,)))
    for record in more:
        tree.apply(record)
    return tree


@pytest.mark.parametrize(
    ("texts", "message", "marked"),
    [
        (["rope"], "What is RoPE?", ["RoPE"]),
        (["is what"], "So is\n\twhat", ["is what"]),
        (["a.c"], "abc a.c", ["a.c"]),
        (["two", "one"], "One, then two, one", ["One", "two", "one"]),
        (["rope", "ropes"], "Ropes", ["Ropes"]),
        (["größe"], "DIE GRÖSSE? DIE GRÖßE", ["GRÖßE"]),
        (["one", "three"], "One, then two", []),
    ],
)
def test_all_texts_must_occur_in_any_case(texts: list[str], message: str, marked: list[str]) -> None:
    found = list(TextQuery(texts).matches(tree_of(message)))
    assert [match.context[first:last] for match in found for first, last in match.marks] == marked
    assert [match.places for match in found] == ([len(marked)] if marked else [])


def test_a_text_must_have_characters() -> None:
    with pytest.raises(ValueError, match="empty"):
        TextQuery(["a", " \n"])


def test_turn_and_role_are_those_on_the_branch_of_the_message() -> None:
    # Message 3 is left, and message 5 asked in its place.
    other = (HeadRecord(2), Question(5, 2, "a cat?", TIME), ReplyRecord(6, 5, "m", {}, TIME), More(6, "a cat.", (3,)))
    tree = tree_of("hi", "I am a cat", "a cat again", "yes", more=other)
    found = [(each.message, each.turn, each.role) for each in TextQuery(["a cat"]).matches(tree)]
    assert found == [(2, 1, "assistant"), (3, 2, "user"), (5, 2, "user"), (6, 2, "assistant")]


def test_the_context_is_one_line_around_the_first_place() -> None:
    words = " ".join(f"w{n}\n" for n in range(100))
    (match,) = TextQuery(["w50"]).matches(tree_of(words))
    assert match.context.startswith("…w") and match.context.endswith("…")
    assert "\n" not in match.context and "  " not in match.context
    assert [match.context[first:last] for first, last in match.marks] == ["w50"]
    # Whole words.
    assert match.context.strip("…").split() == words.split()[44:72]
    (short,) = TextQuery(["b"]).matches(tree_of(" a b c\n"))
    assert short.context == "a b c"
    # A text without spaces is cut anywhere.
    (run,) = TextQuery(["b"]).matches(tree_of("a" * 500 + "b" + "c" * 500))
    assert run.context == f"…{'a' * 30}b{'c' * 110}…"
