"""The answer that a view measures: the flags of views that take one, and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcli.commands.shared.inspect_command import InspectContext
from llmcli.commands.shared.options.flags import SAMPLING, SHOW, flag, text


def answer_flag(help_text: str) -> Any:
    """The flag --answer."""
    return flag("--answer", metavar="TEXT", callback=text, env=False, panel=SHOW, help=help_text)


def max_tokens_flag(help_text: str) -> Any:
    """The flag --max-tokens, for the model's own answer."""
    return flag("--max-tokens", "-n", metavar="N", min=1, env=False, panel=SAMPLING, help=help_text)


def answer_tokens(context: InspectContext, answer: str | None, max_tokens: int) -> Sequence[int]:
    """The ids of `answer`, or of the model's own answer to the text, of at most `max_tokens`."""
    from llmcli.inspection.causal.prompt_ablation import answer_ids, own_answer

    if answer is not None:
        return answer_ids(context.loaded.tokenizer, answer)
    with context.progress("Answering") as progress:
        return own_answer(context.loaded, context.ids, max_tokens, progress)
