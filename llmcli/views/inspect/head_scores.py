"""Head atlas: what every head attends to, and the loss without the strongest induction heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.heatmap import HeatMap, scale_legend
from llmcli.views.widgets.numbers import bits

if TYPE_CHECKING:
    from llmcli.inspection.attention.head_scores import HeadAblation, HeadAtlas, HeadScores

SCHEMA = "llmcli.heads/1"
NOTE = (
    "Bright: a head gives much of its attention to that token. induction: to the token that followed the same token "
    "earlier, which lets a model copy."
)
KINDS = {
    "previous": "the token before",
    "duplicate": "the same token earlier",
    "induction": "the token after it",
    "sink": "the first position",
}
_STRONGEST = 5
_WIDE_CELLS_UP_TO = 32  # heads a block
_PARKED = 0.4


def heads_view(atlas: HeadAtlas) -> Group:
    """One heat map per kind of score, blocks by heads; then the strongest heads of each kind, as block.head."""
    parts: list[RenderableType] = [
        Text(_text(atlas), style="dim"),
        Columns([_map(atlas.heads, kind, words) for kind, words in KINDS.items()], padding=(1, 3)),
        scale_legend(0, 1, "of a head's attention"),
        Text(),
        Text("strongest heads, as block.head with the share of their attention"),
        _strongest(atlas.heads, {kind: kind for kind in KINDS}),
        Text(),
        Text("the same, as shares of the attention not on the first position"),
        _strongest(atlas.heads, {kind: f"{kind}_without_sink" for kind in KINDS if kind != "sink"}),
        Text(),
        Text(_parked(atlas.heads)),
    ]
    if atlas.ablation is not None:
        parts += [Text(), _ablation(atlas.ablation)]
    return Group(*parts)


def _text(atlas: HeadAtlas) -> str:
    texts = "a text" if atlas.seed is None else f"{atlas.batch} texts of random tokens"
    start = "after BOS, " if atlas.bos else ""
    return f"{texts}: {start}{atlas.length} tokens twice; rows are blocks, columns heads"


def _map(heads: Sequence[HeadScores], kind: str, words: str) -> Group:
    rows: dict[int, list[float | None]] = {}
    for score in heads:
        rows.setdefault(score.layer, []).append(getattr(score, kind))
    width = 2 if max(map(len, rows.values())) <= _WIDE_CELLS_UP_TO else 1
    blocks = list(rows)
    cells = HeatMap(list(rows.values()), row_label=lambda row: str(blocks[row]).rjust(2), cell_width=width)
    return Group(Text(kind, style="bold"), Text(words, style="dim"), cells)


def _strongest(heads: Sequence[HeadScores], fields: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    columns = []
    for kind, field in fields.items():
        table.add_column(kind, overflow="fold")
        scored = [(share, score) for score in heads if (share := getattr(score, field)) is not None]
        best = sorted(scored, key=lambda pair: -pair[0])[:_STRONGEST]
        columns.append([f"{score.layer}.{score.head} {share:.2f}" for share, score in best] or ["n/a"])
    for row in range(max(map(len, columns))):
        table.add_row(*(column[row] if row < len(column) else "" for column in columns))
    return table


def _parked(heads: Sequence[HeadScores]) -> str:
    parked = sum((score.sink or 0.0) > _PARKED for score in heads)
    line = f"{parked} of {len(heads)} heads put more than {_PARKED:.0%} of their attention on the first position."
    learned = [score.learned_sink for score in heads if score.learned_sink is not None]
    if learned:
        line += f" Learned sinks, which are no position, take {sum(learned) / len(learned):.0%} on average."
    return line


def _ablation(result: HeadAblation) -> Group:
    off = " ".join(f"{head.layer}.{head.head}" for head in result.heads)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("loss on the second repeat, bits a token", overflow="fold")
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    before, without, mean = map(bits, (result.before, result.without, result.random_mean))
    table.add_row("all heads on", f"{before:.2f}", "")
    table.add_row(f"without {off}", f"{without:.2f}", f"{without - before:+.2f}")
    table.add_row(f"without {len(result.heads)} other heads", f"{mean:.2f}", f"{mean - before:+.2f}")
    spread = f"{bits(min(result.random)):.2f} to {bits(max(result.random)):.2f} in {len(result.random)} random draws"
    return Group(table, Text(f"The last line is a mean: {spread}.", style="dim"))
