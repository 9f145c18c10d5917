"""What a model costs: parameters and FLOP of each part, the KV cache, and the cost of texts of several lengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.sizes import size
from llmcli.views.reports.show import block_name, count
from llmcli.views.terminal.sanitize import visible
from llmcli.views.widgets.token_table import percent

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from llmcli.inspection.evaluation.cost import LengthCost, ModelCost

SCHEMA = "llmcli.cost/1"
NOTE = (
    "FLOP: 2 per weight and token, plus attention scores, which grow with the text; norms, activations and biases are "
    "not counted. read all: prefill of all tokens. 1 more: the last token, the others cached. scores: share of "
    "attention scores in it."
)
_BOXES = {
    "embeddings": "embeddings",
    "attention": "attention",
    "recurrent": "recurrent",
    "feed_forward": "feed-forward",
    "norms": "norms",
    "output_head": "output head",
}
_ORIGINS = {"context": "the full context", "text": "the text"}


class CostView:
    """Parameters and FLOP by part, kinds of blocks, the KV cache, and costs by text length."""

    def __init__(self, result: ModelCost) -> None:
        self._result = result

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result = self._result
        idle = f", {count(result.active)} of them for each token" if result.active < result.parameters else ""
        title = Text(visible(result.name), style="bold")
        yield title.append(f"  {count(result.parameters)} parameters{idle}", style="default not bold")
        yield Text()
        yield _parts(result)
        yield from (Text(line, style="dim") for line in _blocks(result))
        yield Text()
        yield Text(_cache(result))
        if result.state_bytes:
            yield Text(f"States: {size(result.state_bytes)} for a text of any length.")
        yield Text()
        yield _lengths(result)
        known = [f"{length.tokens} tokens: {where}" for length in result.lengths if (where := _origin(result, length))]
        if known:
            yield Text("; ".join(known), style="dim")


def flops(number: int) -> str:
    """A number of floating-point operations with three digits and the letter of a power of 1000."""
    for power, letter in ((6, "E"), (5, "P"), (4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if number >= 1000**power:
            return f"{number / 1000**power:.3g} {letter}"
    return str(number)


def _parts(result: ModelCost) -> Table:
    mixed = result.active < result.parameters
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("part")
    for header in ("params", "active" if mixed else "share", "FLOP/token"):
        table.add_column(header, justify="right", no_wrap=True)
    for box in result.boxes:
        second = count(box.active) if mixed else percent(box.parameters / result.parameters)
        tied = box.box == "output_head" and not box.parameters
        numbers = ("tied", "") if tied else (count(box.parameters), second)
        table.add_row(_BOXES[box.box], *numbers, flops(box.flops_per_token))
    second = count(result.active) if mixed else "100.0%"
    table.add_row("model", count(result.parameters), second, flops(result.flops_per_token), style="bold")
    return table


def _blocks(result: ModelCost) -> Iterator[str]:
    """One line per kind of block: its parameters and its attention window."""
    kinds: dict[tuple[int, int, int, int, int | None], list[int]] = {}
    for block in result.blocks:
        kind = (block.attention, block.recurrent, block.feed_forward, block.feed_forward_active, block.window)
        kinds.setdefault(kind, []).append(block.block)
    for (attention, recurrent, feed_forward, active, window), indices in kinds.items():
        name = block_name(indices)
        parts = {"attention": attention, "recurrent": recurrent, "feed-forward": feed_forward}
        words = [f"{part} {count(parameters)}" for part, parameters in parts.items() if parameters]
        if active < feed_forward:
            words[-1] += f" ({count(active)} active)"
        if window is not None:
            words.append(f"sees the last {window} tokens")
        each = " each" if len(indices) > 1 else ""
        yield f"{name}{each}: {', '.join(words)}"


def _cache(result: ModelCost) -> str:
    a_token = f"KV cache: {result.kv_bytes_per_token:,} B a token in {8 * result.kv_value_bytes}-bit values"
    if result.kv_bytes_per_token == result.kv_bytes_per_token_ungrouped:
        return f"{a_token}; each of the {result.query_heads} heads has its own keys and values."
    ratio = result.kv_bytes_per_token_ungrouped / result.kv_bytes_per_token
    cached = "one latent for all heads" if result.latent else f"{result.kv_heads} heads for {result.query_heads}"
    return (
        f"{a_token}, {cached}; {result.kv_bytes_per_token_ungrouped:,} B if each of the {result.query_heads} query "
        f"heads had its own keys and values, {ratio:.3g} times as much."
    )


def _lengths(result: ModelCost) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for header in ("tokens", "KV cache", "read all", "1 more", "scores"):
        table.add_column(header, justify="right", no_wrap=True)
    for length in result.lengths:
        table.add_row(
            str(length.tokens),
            size(length.kv_bytes),
            flops(length.flops_to_read),
            flops(length.flops_of_last),
            percent(length.attention_share),
        )
    return table


def _origin(result: ModelCost, length: LengthCost) -> str:
    """Where a length comes from and whether it exceeds the context; may be empty."""
    words = [_ORIGINS[length.origin]] if length.origin in _ORIGINS else []
    return ", ".join(words + ["beyond the context"] * (length.tokens > result.context_length))
