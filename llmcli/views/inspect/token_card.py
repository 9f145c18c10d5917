"""Token card: candidates, attention, logit lens, and the blocks, heads and neurons that add to the token's logit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from llmcli.views.inspect.logit_lens import lens_table
from llmcli.views.inspect.neurons import neuron_name, neuron_table
from llmcli.views.terminal.colors import AMBER, BLUE
from llmcli.views.widgets.items import Items
from llmcli.views.widgets.numbers import bits
from llmcli.views.widgets.token_table import percent, probability_bar, token_label

if TYPE_CHECKING:
    from llmcli.engine.events import AttentionRow
    from llmcli.inspection.core.tokens import TokenProb
    from llmcli.inspection.residual.logit_attribution import Attribution, HeadLogit
    from llmcli.inspection.residual.logit_lens import LensLayer, LensPosition
    from llmcli.inspection.token_card import CardToken, ComponentAblation, TokenCard, Verification

SCHEMA = "llmcli.token/1"
_DIRECT = (
    "Numbers show what each part adds directly to this token's score. Effects through later layers are not counted"
)
NOTE = f"{_DIRECT}."
NOTE_UNVERIFIED = f"{_DIRECT}: --verify tests those."
_LAYERS, _BLOCKS = 8, 8
_LENS_WIDTH = 60
# Cells of a bar on either side of its center line, and all other cells of a row with two bars.
_LONGEST_BAR, _BESIDE_BARS = 6, 31


class CardView:
    """All sections of a token card."""

    def __init__(self, card: TokenCard) -> None:
        self._card = card

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        card, width = self._card, options.max_width
        yield _title(card)
        yield from _section("could be", _candidates(card.candidates, card.token))
        if card.read is not None:
            yield from _section("read", _read(card.read))
        yield from _section(
            "blocks (raw lens)", lens_table(card.lens, _selected_layers(card.lens), min(width, _LENS_WIDTH))
        )
        found = card.attribution
        yield from _section("logit", _sum(found), _block_table(found, width))
        yield from _section("heads", _head_table(found.heads))
        yield from _section("neurons", neuron_table(found.neurons, suppressed=False))
        if card.verify is not None:
            label = token_label(card.token.bytes)
            title = f"{label} {percent(card.verify.before)}, and with these switched off"
            yield from _section(title, _verify_table(card.verify))


def _section(title: str, *content: RenderableType) -> Iterator[RenderableType]:
    yield Text()
    yield Text(title, style=f"bold {BLUE}", overflow="fold")
    yield from content


def _title(card: TokenCard) -> Text:
    token = card.token
    return Text.assemble(
        f"token {token.index} ",
        (token_label(token.bytes), "bold"),
        f" {percent(token.prob)}, rank {token.rank}, entropy {bits(card.entropy):.2f} bits, after ",
        (token_label(card.before.bytes), "bold"),
        "" if token.stands else " (not in the text)",
        overflow="fold",
    )


def _candidates(candidates: Sequence[TokenProb], token: CardToken) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right", style="dim")
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    shown = [(rank, other.id, other.bytes, other.prob) for rank, other in enumerate(candidates, 1)]
    if all(token_id != token.id for _, token_id, _, _ in shown):
        shown.append((token.rank, token.id, token.bytes, token.prob))
    for rank, token_id, data, prob in shown:
        own = "bold underline" if token_id == token.id else ""
        mark = ">" if token_id == token.id else " "
        bar = Text(probability_bar(prob), style=BLUE)
        table.add_row(f"{mark}{rank}", Text(token_label(data), style=own), percent(prob), bar)
    return table


def _read(row: AttentionRow) -> Items:
    items = [
        Text.assemble((token_label(item.text.encode()), "bold"), f" {_whole(item.weight)} at {item.position}")
        for item in row.read
    ]
    items.append(Text(f"sink {_whole(row.sink)}, itself {_whole(row.self)} of all attention", "dim"))
    return Items(items)


def _selected_layers(found: LensPosition) -> list[LensLayer]:
    """The first layer, the last few layers where the most probable token changes, and the last layer."""
    layers = found.layers
    new = [at.layer for at in layers[1:] if at.top[0].id != layers[at.layer - 1].top[0].id]
    return [layers[layer] for layer in sorted({0, *new[-_LAYERS:], len(layers) - 1})]


def _sum(found: Attribution) -> Text:
    attention = sum(block.attention for block in found.blocks)
    feed_forward = sum(block.feed_forward for block in found.blocks)
    parts = [
        ("mean", found.mean_logit),
        ("embedding", found.embedding),
        ("attention and recurrent" if found.recurrent else "attention", attention),
        ("feed-forward", feed_forward),
        ("per-layer embeddings", sum(block.per_layer for block in found.blocks)),
        ("bias", found.bias),
        ("rounding", found.rounding),
    ]
    line = Text(f"{found.logit:.2f} =", overflow="fold")
    for name, value in parts:
        # Few models have these, and the rounding error of float32 is usually below the digits shown.
        if name in ("per-layer embeddings", "bias", "rounding") and abs(value) < 0.005:
            continue
        line.append(f" {value:+.2f} ")
        line.append(name, "dim")
    if found.softcap is not None:
        line.append(f", before the soft cap of {found.softcap:g}", "dim")
    return line


def _block_table(found: Attribution, width: int) -> Table:
    """The blocks with the largest contributions, in order, and the sum of the others."""
    blocks = found.blocks
    # Without per-layer embeddings there are two columns.
    attention = "mixer" if found.recurrent else "attention"
    names = {"attention": attention, "feed_forward": "feed-fwd", "per_layer": "per-layer"}
    parts = [part for part in names if part != "per_layer" or any(block.per_layer for block in blocks)]
    values = {block.block: [float(getattr(block, part)) for part in parts] for block in blocks}
    strength = {block: max(map(abs, row)) for block, row in values.items()}
    named = sorted(sorted(strength, key=lambda index: strength[index], reverse=True)[:_BLOCKS])
    others = [row for block, row in values.items() if block not in named]
    rows = [(str(index), values[index]) for index in named]
    if others:
        rows.append((f"{len(others)} more", [sum(column) for column in zip(*others, strict=True)]))
    most = max(strength.values(), default=0.0) or 1.0
    reach = min(_LONGEST_BAR, max(1, (width - _BESIDE_BARS * len(parts) // 2) // (2 * len(parts))))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("block", justify="right", style="dim", no_wrap=True)
    for part in parts:
        table.add_column(names[part], justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for label, row in rows:
        table.add_row(label, *(cell for value in row for cell in (f"{value:+.2f}", signed_bar(value / most, reach))))
    return table


def signed_bar(share: float, reach: int) -> Text:
    """A bar left of a center line for a negative share, right of it for a positive one; full at 1."""
    halves = round(min(abs(share), 1.0) * 2 * reach)
    full, half = divmod(halves, 2)
    left = ("▐" * half + "█" * full if share < 0 else "").rjust(reach)
    right = ("█" * full + "▌" * half if share > 0 else "").ljust(reach)
    return Text.assemble((left, AMBER), ("│", "dim"), (right, BLUE))


def _head_table(heads: Sequence[HeadLogit]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("head", no_wrap=True)
    table.add_column("logit", justify="right", no_wrap=True)
    table.add_column("attends to", overflow="fold")
    for head in heads:
        strongest = Text()
        if head.looked_at is not None:
            strongest.append(token_label(head.looked_at.bytes))
            strongest.append(f" {_whole(head.looked_at.weight)} at {head.looked_at.position}", "dim")
        table.add_row(Text(f"{head.block}.{head.head}", style="bold"), f"{head.logit:+.2f}", strongest)
    return table


def _verify_table(verify: Verification) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("off", overflow="fold")
    table.add_column("then", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("surprise", justify="right", no_wrap=True)
    for ablation in verify.ablations:
        name = Text(_switched_off(ablation), style="dim" if ablation.control else "")
        bar = Text(probability_bar(ablation.after), style=BLUE)
        known = ablation.after > 0 and verify.before > 0
        change = f"{bits(-math.log(ablation.after / verify.before)):+.2f} bits" if known else ""
        table.add_row(name, percent(ablation.after), bar, change)
    return table


def _switched_off(ablation: ComponentAblation) -> str:
    names = [f"head {head.block}.{head.head}" for head in ablation.heads]
    names += [f"neuron {neuron_name(neuron.block, neuron.neuron, None)}" for neuron in ablation.neurons]
    if len(names) == 1:
        return f"{names[0]}, drawn at random" if ablation.control else names[0]
    return f"{len(names)} drawn at random" if ablation.control else f"all {len(names)} of them"


def _whole(share: float) -> str:
    return f"{100 * share:.0f}%"
