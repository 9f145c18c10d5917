"""The effects of an edit before and after, and the list of stored edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import AMBER
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.numbers import bits
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.editing.edit_fact import EditReport
    from llmcli.editing.evaluation import GreedyReply, NeighborFact

SCHEMA = "llmcli.edit/1"
NOTE = (
    "new answer: probability of the whole answer, should rise. neighbors: other facts, their answers should stay. "
    "drift: KL divergence on unrelated text, should be small."
)


def edit_view(report: EditReport) -> Group:
    """The new answer for the prompt and its paraphrases, neighbors, drift on other text, replies, and the verdict."""
    proof = report.proof
    tried = ", ".join(f"{each.layer} ({each.score:.2f})" for each in report.tried)
    title = Text.assemble(_words(report.prompt), " → ", (_line(report.target), "bold"), f"   block {report.layer}")
    changed = _table("new answer", "before", "after")
    for each in (proof.prompt, *proof.paraphrases):
        changed.add_row(_words(each.text), percent(each.before), percent(each.after))
    stayed = _table("neighbors", "answer", "before", "after", "new answer there")
    for near in proof.neighbours:
        stayed.add_row(*_neighbor(near))
    parts: list[RenderableType] = [title]
    if len(report.tried) > 1:
        parts.append(Text(f"blocks tried, scored on other texts than these: {tried}", style="dim"))
    parts += [Text(), changed, Text(), stayed, Text()]
    parts += [Text(f"drift on unrelated text {bits(proof.drift):.1e} bits a token"), Text()]
    return Group(*parts, _replies(proof.replies), Text(), _verdict(report.problems))


def edits_table(rows: Sequence[tuple[str, str, str, str, Sequence[int]]]) -> Table:
    """One row per edit: name, model, prompt, new answer and blocks."""
    table = _table("name", "model", "prompt", "new answer", "block", right=())
    for name, model, prompt, target, layers in rows:
        table.add_row(_words(name), _words(model), _words(prompt), _words(target), Text(", ".join(map(str, layers))))
    return table


def edit_lines(facts: Sequence[tuple[str, str]]) -> Table:
    """One edit as lines of (name, value)."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, _words(value))
    return table


def _verdict(problems: Sequence[str]) -> Text:
    if not problems:
        return Text("The edit works, also for paraphrases, and neighbors and other text did not change.", style="bold")
    return Text("\n".join(visible(problem) for problem in problems), style=f"bold {AMBER}")


def _neighbor(near: NeighborFact) -> list[Text | str]:
    answer = Text(token_label(near.answer.encode("utf-8", errors="replace")))
    there = f"{percent(near.target_before)} → {percent(near.target_after)}"
    return [_words(near.text), answer, percent(near.before), percent(near.after), there]


def _replies(replies: Sequence[GreedyReply]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 1, 0))
    for name, ratio in (("prompt", 2), ("before", 3), ("after", 3)):
        table.add_column(name, overflow="fold", ratio=ratio)
    for reply in replies:
        prompt = Text.assemble(("> " if reply.chat else "", "dim"), _words(reply.prompt))
        table.add_row(prompt, _words(reply.before.strip()), _words(reply.after.strip()))
    return table


def _table(first: str, *others: str, right: Sequence[str] = ("before", "after")) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _words(text: str) -> Text:
    return Text(_line(text))


def _line(text: str) -> str:
    return visible(text.replace("\n", "⏎").replace("\t", "⇥"))
