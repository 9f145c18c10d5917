"""What `--probs` and `--top` add below a reply."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.views import terminal

if TYPE_CHECKING:
    from llmcli.engine import Step
    from llmcli.text.tokenizer import Tokenizer


def explain(tokenizer: Tokenizer, steps: Sequence[Step], *, probs: bool, top: int) -> None:
    """On stderr: the legend of the colours, and a table of the tokens if asked for or if there are no colours."""
    if not (probs or top) or not steps:
        return
    from llmcli.views.tokens import legend, token_table

    console = terminal.console_err()
    coloured = probs and sys.stdout.isatty() and terminal.console_out().color_system is not None
    if coloured:
        console.print(legend())
    if top or not coloured:
        console.print(token_table(steps, top, tokenizer.token_bytes))
