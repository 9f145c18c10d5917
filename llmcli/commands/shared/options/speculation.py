"""Options of speculative decoding: `--draft`, `--lookup` and `--draft-tokens`."""

from dataclasses import dataclass
from typing import Annotated

from llmcli.commands.shared.completion import MODELS
from llmcli.commands.shared.options.flags import RUNNING, flag
from llmcli.errors import UsageError

_MOST = 15


@dataclass(frozen=True)
class SpeculationOptions:
    """What drafts tokens for speculative decoding, and how many at a time."""

    draft: Annotated[
        str | None,
        flag(
            "--draft",
            autocompletion=MODELS,
            panel=RUNNING,
            help="A small model that proposes tokens for the model to verify.",
            metavar="MODEL",
        ),
    ] = None
    lookup: Annotated[
        bool | None,
        flag(
            "--lookup/--no-lookup",
            panel=RUNNING,
            help="Propose tokens from repeated text. Default: on, unless it could change the reply.",
        ),
    ] = None
    draft_tokens: Annotated[
        str,
        flag(
            "--draft-tokens",
            metavar="N|auto",
            panel=RUNNING,
            help=f"Propose N tokens at a time, up to {_MOST}. Default: auto, by measured gain.",
            show_default=False,
        ),
    ] = "auto"

    def count(self) -> int | None:
        """The number of tokens to draft at a time; None for "auto".

        Raises:
            UsageError: --draft-tokens is neither "auto" nor a number in range.
        """
        tokens = self.draft_tokens
        if tokens != "auto" and not (tokens.isdecimal() and 1 <= int(tokens) <= _MOST):
            raise UsageError(f"--draft-tokens must be auto or a number from 1 to {_MOST}, not {tokens!r}.")
        return None if tokens == "auto" else int(tokens)
