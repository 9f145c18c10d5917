"""The answer that a view measures: the flags of views that take one, and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcli.commands.shared.inspect_command import InspectContext
from llmcli.commands.shared.options.flags import SAMPLING, SHOW, flag, text
from llmcli.errors import UsageError

_MAX_TOKENS = 5


def answer_flag(help_text: str) -> Any:
    """The flag --answer."""
    return flag("--answer", metavar="TEXT", callback=text, env=False, panel=SHOW, help=help_text)


def max_tokens_flag(help_text: str) -> Any:
    """The flag --max-tokens, for the model's own answer."""
    return flag("--max-tokens", "-n", metavar="N", min=1, env=False, panel=SAMPLING, help=help_text)


def check_answer_flags(answer: str | None, max_tokens: int | None) -> None:
    """Raise `UsageError` if both are given."""
    if answer is not None and max_tokens is not None:
        raise UsageError("--max-tokens is for the model's own answer: --answer is measured to its end.")


def answer_tokens(context: InspectContext, answer: str | None, max_tokens: int | None) -> Sequence[int]:
    """The ids of `answer`, or of the model's own answer to the text, of at most `max_tokens` (None: 5)."""
    from llmcli.inspection.causal.prompt_ablation import answer_ids, own_answer

    if answer is not None:
        return answer_ids(context.loaded.tokenizer, answer)
    with context.progress("Answering") as progress:
        return own_answer(context.loaded, context.ids, max_tokens or _MAX_TOKENS, progress)
