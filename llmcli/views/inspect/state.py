"""Recurrent layers: how long they remember, what a token wrote, and what reaches an answer through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.numbers import bits
from llmcli.views.widgets.token_table import token_label

if TYPE_CHECKING:
    from llmcli.inspection.recurrent.memory import Memories
    from llmcli.inspection.recurrent.routes import Routes

SCHEMA = "llmcli.state/1"
ROUTES_SCHEMA = "llmcli.state-routes/1"
NOTE = (
    "half-life: tokens until half of what was written is left, by fading alone. written: the part of the state that "
    "the token replaced. added: what the layer added, as a part of the residual stream."
)
ROUTES_NOTE = (
    "change: in the surprise of the whole answer; one bit halves its probability. The ways overlap, so the changes "
    "need not sum to that of both."
)
_UNITS = {"head": "heads", "key channel": "channels of keys", "channel": "channels", "state value": "values"}


def memories_view(found: Memories) -> Group:
    """One row per recurrent block; then the blocks that see only a few tokens, and those with attention."""
    token = found.tokens[found.position]
    parts: list[RenderableType] = [
        Text.assemble("written by ", (token_label(token.bytes), "bold"), f" at {found.position}", overflow="fold")
    ]
    if found.blocks:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for name in ("block", "kind", "fading apart"):
            table.add_column(name, overflow="fold")
        for name in ("shortest half-life", "median", "longest", "written", "added"):
            table.add_column(name, justify="right", overflow="fold")
        for block in found.blocks:
            lives = block.half_lives
            spread = map(_tokens, (lives.shortest, lives.median, lives.longest))
            shares = (f"{block.written:.0%}", f"{block.added:.0%}")
            table.add_row(str(block.block), block.kind, f"{lives.count} {_UNITS[lives.unit]}", *spread, *shares)
        parts.append(table)
    parts.extend(
        Text(f"block {window.block}: {window.kind}, sees the last {window.width} tokens") for window in found.windows
    )
    attending = found.attention_blocks
    if attending:
        parts.append(Text(f"blocks with attention: {', '.join(map(str, attending))}", style="dim"))
    else:
        parts.append(Text("no block has attention", style="dim"))
    return Group(*parts)


def routes_view(found: Routes) -> Group:
    """The surprise of the answer with the part in reach, and hidden in three ways."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("the part is hidden from", overflow="fold")
    table.add_column("surprise, bits", justify="right", no_wrap=True)
    table.add_column("change", justify="right", no_wrap=True)
    rows = {
        "nothing": found.before,
        "attention": found.without_attention,
        "states": found.without_states,
        "both": found.without_both,
    }
    for name, logprob in rows.items():
        change = "" if name == "nothing" else f"{bits(found.before - logprob):+.2f}"
        table.add_row(name, f"{bits(-logprob):.2f}", change)
    answer = "".join(token_label(token.bytes) for token in found.answer)
    hidden = token_label(found.text.encode("utf-8", errors="replace"))
    return Group(Text.assemble("answer ", (answer, "bold"), " without ", (hidden, "bold"), overflow="fold"), table)


def _tokens(half_life: float | None) -> str:
    if half_life is None:
        return "no end"
    return f"{half_life:.2g}" if half_life < 10 else f"{half_life:.0f}"
