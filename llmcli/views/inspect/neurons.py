"""Feed-forward neurons: the largest contributions to a logit, and one neuron's activation along a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from llmcli.views.terminal.colors import BLUE
from llmcli.views.widgets.shading import shaded, shows_bands
from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.inspection.core.neuron_values import Expert
    from llmcli.inspection.core.tokens import Token
    from llmcli.inspection.feed_forward.neurons import NeuronAlong, Neurons
    from llmcli.inspection.residual.logit_attribution import NeuronLogit

SCHEMA = "llmcli.neurons/1"
ALONG_SCHEMA = "llmcli.neuron/1"
NOTE = (
    "logit: what a neuron adds directly to this token's score. fires: its activation. promotes, suppresses: the tokens "
    "whose scores it raises or lowers most."
)
ALONG_NOTE = (
    "Shaded: how strongly the neuron fires on each token. promotes: the tokens whose scores it raises when it does."
)
# Number of tokens listed on which a neuron fires most strongly.
_LISTED = 10
# Minimum width for the column of suppressed tokens.
_WIDE = 60


class NeuronsView:
    """The predicted token, and one row per neuron."""

    def __init__(self, found: Neurons) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self._found
        yield Text.assemble(
            (token_label(found.target.bytes), "bold"),
            f" {percent(found.target.prob)} after ",
            (token_label(found.token.bytes), "bold"),
            f" at {found.position}: logit {found.logit:+.2f}, mean logit {found.mean_logit:+.2f}",
            overflow="fold",
        )
        yield neuron_table(found.neurons, suppressed=options.max_width >= _WIDE)


def neuron_table(neurons: Sequence[NeuronLogit], *, suppressed: bool) -> Table:
    """One row per neuron: its logit contribution, activation, and the tokens it promotes and, if asked, suppresses."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("neuron", no_wrap=True)
    table.add_column("logit", justify="right", no_wrap=True)
    table.add_column("fires", justify="right", no_wrap=True)
    table.add_column("promotes", overflow="fold")
    if suppressed:
        table.add_column("suppresses", overflow="fold", style="dim")
    for neuron in neurons:
        row = [
            Text(neuron_name(neuron.block, neuron.neuron, neuron.expert), style="bold"),
            Text(f"{neuron.logit:+.2f}"),
            Text(f"{neuron.activation:+.1f}"),
            _listed(neuron.promotes),
        ]
        table.add_row(*row, *([_listed(neuron.suppresses)] if suppressed else []))
    return table


def neuron_name(block: int, neuron: int, expert: Expert) -> str:
    """The name of a neuron: block.neuron, or block.expert.neuron."""
    return f"{block}.{neuron}" if expert is None else f"{block}.{expert}.{neuron}"


class NeuronAlongView:
    """The text shaded by a neuron's activation, its strongest tokens, and the tokens it promotes and suppresses."""

    def __init__(self, found: NeuronAlong) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self._found
        name = neuron_name(found.block, found.neuron, found.expert)
        fired = [(abs(at.activation or 0.0), at) for at in found.activations]
        most = max((size for size, _ in fired), default=0.0)
        full = most or 1.0
        yield Text.assemble("neuron ", (name, "bold"), f": largest activation {most:.2f}, either sign", overflow="fold")
        strip, width = Text(), 0
        for size, at in fired:
            cell = shaded(token_label(at.token.bytes), size / full, colored=shows_bands(console))
            # Wrap here, between tokens rather than between words.
            if width and width + cell.cell_len > options.max_width:
                strip.append("\n")
                width = 0
            strip.append_text(cell)
            width += cell.cell_len
        strip.overflow = "fold"
        yield strip
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        table.add_column("#", justify="right", style="dim")
        table.add_column("token", overflow="fold")
        table.add_column("fires", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for size, at in sorted(fired, key=lambda item: item[0], reverse=True)[:_LISTED]:
            if at.activation is not None:
                bar = Text("█" * round(8 * size / full), style=BLUE)
                table.add_row(str(at.position), Text(token_label(at.token.bytes)), f"{at.activation:+.2f}", bar)
        yield table
        yield Text.assemble(("promotes   ", "dim"), _listed(found.promotes), overflow="fold")
        yield Text.assemble(("suppresses ", "dim"), _listed(found.suppresses), overflow="fold")


def _listed(tokens: Sequence[Token]) -> Text:
    return Text(" ".join(token_label(token.bytes) for token in tokens))
