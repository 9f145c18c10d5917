"""Mixture-of-experts routing: a load histogram of the experts per block, and the experts of each token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from llmcli.views.reports.show import block_name
from llmcli.views.terminal.colors import BLUE
from llmcli.views.widgets.numbers import bits
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from llmcli.inspection.feed_forward.moe_routing import ExpertRouting, ExpertWeight, LayerRouting

SCHEMA = "llmcli.experts/1"
NOTE = (
    "Even bars and an entropy near 100%: the router uses all experts alike. Tall bars: it prefers a few for this text."
)
_BARS = "▁▂▃▄▅▆▇█"
_SHADES = "░▒▓█"
_NONE = "·"
_LABEL_WIDTH = 16


class ExpertsView:
    """Load and entropy of every block; below, each token with its strongest expert in each block.

    If only one block is shown, each token has all its experts.
    """

    def __init__(self, result: ExpertRouting) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result, width = self._result, options.max_width
        if result.dense:
            yield Text(f"{block_name(result.dense)}: dense, every token goes through all of it", style="dim")
        yield from _histograms(result.layers, width)
        yield Text()
        labels = _labels(result, width)
        if len(result.layers) == 1:
            yield from _lanes(result.layers[0], labels, width)
        else:
            yield from _strongest(result.layers, labels, width)


def _histograms(layers: Sequence[LayerRouting], width: int) -> Iterator[Text]:
    yield Text("block  entropy bits  load", style="dim", no_wrap=True, overflow="crop")
    most = max(max(layer.load) for layer in layers)
    for layer in layers:
        start = f"{layer.layer:>5}  {bits(layer.entropy):>4.2f}  {percent(layer.entropy_share):>6}  "
        room = max(8, width - len(start))
        for first in range(0, layer.experts, room):
            line = Text(start if first == 0 else " " * len(start))
            line.append("".join(_bar(load / most) for load in layer.load[first : first + room]), style=BLUE)
            yield line
    counts = sorted({(layer.chosen, layer.experts) for layer in layers})
    kinds = " or ".join(f"{chosen} of {experts} experts" for chosen, experts in counts)
    even = " or ".join(dict.fromkeys(percent(1 / experts) for _, experts in counts))
    yield Text(
        f"{kinds} for each token. Load of each expert, from expert 0: █ is {percent(most)} of the slots, {_NONE} none, "
        f"an even load {even}. Entropy in bits, and relative to an even load.",
        style="dim",
    )


def _bar(height: float) -> str:
    return _BARS[max(0, math.ceil(height * len(_BARS)) - 1)] if height > 0 else _NONE


def _labels(result: ExpertRouting, width: int) -> list[str]:
    """Number and text of each token, all of one width."""
    texts = [token_label(token.bytes) for token in result.tokens]
    number = len(str(len(texts) - 1))
    size = min(max(map(cell_len, texts)), _LABEL_WIDTH, max(4, width // 3))
    return [f"{index:>{number}}  {set_cell_size(text, size)}  " for index, text in enumerate(texts)]


def _strongest(layers: Sequence[LayerRouting], labels: Sequence[str], width: int) -> Iterator[Text]:
    yield Text("the expert with the greatest weight, in each block", style="dim")
    cell = max(len(str(max(layer.layer, layer.experts - 1))) for layer in layers) + 1
    start = cell_len(labels[0])
    together = max(1, (width - start) // cell)
    for first in range(0, len(layers), together):
        shown = layers[first : first + together]
        head = "block".ljust(start)[:start] + "".join(f"{layer.layer:<{cell}}" for layer in shown)
        yield Text(head, style="dim", no_wrap=True, overflow="crop")
        for token, label in enumerate(labels):
            line = Text(label, no_wrap=True, overflow="crop")
            line.append("".join(f"{layer.routing[token][0].expert:<{cell}}" for layer in shown), style=BLUE)
            yield line


def _lanes(layer: LayerRouting, labels: Sequence[str], width: int) -> Iterator[Text]:
    """One line per token: a cell per expert if there is room, then its experts and their weights, largest first."""
    start = cell_len(labels[0])
    most = max((chosen[0].weight for chosen in layer.routing), default=0.0)
    words = [_words(chosen) for chosen in layer.routing]
    lane = layer.experts + 2 if start + layer.experts + 2 + max(map(len, words)) <= width else 0
    yield Text(f"experts and their weights in block {layer.layer}", style="dim")
    for label, chosen, text in zip(labels, layer.routing, words, strict=True):
        line = Text(label)
        if lane:
            line.append(_lane(chosen, layer.experts, most) + "  ", style=BLUE)
        # Wrap here, so that the next line continues under the first weight.
        room = max(8, width - start - lane)
        pieces = text.split("  ")
        per_line = max(1, (room + 2) // (max(map(len, pieces)) + 2))
        for first in range(0, len(pieces), per_line):
            line.append("  ".join(pieces[first : first + per_line]))
            yield line
            line = Text(" " * (start + lane))


def _lane(chosen: Sequence[ExpertWeight], experts: int, most: float) -> str:
    cells = [_NONE] * experts
    for item in chosen:
        level = math.ceil(item.weight / most * len(_SHADES)) - 1 if most > 0 else 0
        cells[item.expert] = _SHADES[max(0, level)]
    return "".join(cells)


def _words(chosen: Sequence[ExpertWeight]) -> str:
    return "  ".join(f"{item.expert} {item.weight:.2f}" for item in chosen)
