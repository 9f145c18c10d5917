"""How one token was sampled: the candidates and their probabilities after each filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from llmcli.views.widgets.token_table import percent, token_label

if TYPE_CHECKING:
    from llmcli.engine.sampling.params import SamplingParams
    from llmcli.engine.sampling.trace import TracedCandidate

NOTE = (
    "model: probability before any filter. Next columns: after each filter in turn; what a filter removes goes to the "
    "remaining tokens."
)


def choice_table(
    choices: Sequence[TracedCandidate], taken: int, params: SamplingParams, token_bytes: Callable[[int], bytes]
) -> Table:
    """One row per candidate, `>` before the one that was `taken`; `out` where a filter removed it.

    Filters that are off have no column.
    """
    columns = _columns(params)
    if params.temperature == 0:
        # Greedy: later filters have only one token left.
        before = list(columns).index("temperature") + 1
        columns = dict(list(columns.items())[:before])
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", justify="right", style="dim", no_wrap=True)
    table.add_column("token", overflow="fold")
    table.add_column("model", justify="right")
    for label in columns.values():
        table.add_column(label, justify="right")
    for choice in choices:
        own = choice.id == taken
        table.add_row(
            f"{'>' if own else ' '}{choice.rank}",
            Text(token_label(token_bytes(choice.id)), style="bold underline" if own else ""),
            percent(math.exp(choice.logprob)),
            *(_cell(choice, name) for name in columns),
        )
    return table


def _columns(params: SamplingParams) -> dict[str, str]:
    """Column headings of the active filters, in the order they are applied."""
    on = params.active
    penalties = [
        f"{name} {value:g}"
        for name, value, setting in (
            ("repeat", params.repeat_penalty, "repeat_penalty"),
            ("frequency", params.frequency_penalty, "frequency_penalty"),
            ("presence", params.presence_penalty, "presence_penalty"),
        )
        if setting in on
    ]
    spread = f"±{params.dynatemp_range:g}" if "dynatemp_range" in on else ""
    headings = (
        ("logit_bias", "bias", "logit_bias" in on),
        ("penalties", ", ".join(penalties), bool(penalties)),
        ("dry", f"dry {params.dry_multiplier:g}", "dry_multiplier" in on),
        ("top_n_sigma", f"top-n-sigma {params.top_n_sigma:g}", "top_n_sigma" in on),
        ("temperature", f"temp {params.temperature:g}{spread}", True),
        ("top_k", f"top-k {params.top_k}", "top_k" in on),
        ("typical_p", f"typical-p {params.typical_p:g}", "typical_p" in on),
        ("top_p", f"top-p {params.top_p:g}", "top_p" in on),
        ("min_p", f"min-p {params.min_p:g}", "min_p" in on),
        ("xtc", f"xtc {params.xtc_threshold:g}", "xtc_probability" in on),
    )
    return {name: heading for name, heading, is_on in headings if is_on}


def _cell(choice: TracedCandidate, name: str) -> str:
    """The probability after the filter `name`; `out` at the filter that removed the token, blank after it."""
    after = next(probability for stage, probability in choice.after if stage == name)
    if after > 0:
        return percent(after)
    return "out" if choice.removed_by == name else ""
