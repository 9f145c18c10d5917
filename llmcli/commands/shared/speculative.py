"""`--draft`, `--lookup` and `--draft-tokens`: several tokens in a pass of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.api import LoadedModel
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.engine import Engine

_PANEL = "More tokens in a pass"
_MOST = 15

Draft: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--draft",
        envvar="LLMCLI_DRAFT",
        metavar="NAME|PATH",
        rich_help_panel=_PANEL,
        help="A small model of the same vocabulary that proposes tokens; the model verifies several in one pass.",
    ),
]
Lookup: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--lookup/--no-lookup",
        envvar="LLMCLI_LOOKUP",
        rich_help_panel=_PANEL,
        help="Propose what followed the same words before. Default: on where replies are the same to the last bit.",
    ),
]
DraftTokens: TypeAlias = Annotated[
    str,
    typer.Option(
        "--draft-tokens",
        envvar="LLMCLI_DRAFT_TOKENS",
        metavar="N|auto",
        rich_help_panel=_PANEL,
        help=f"How many are proposed at a time, up to {_MOST}. Default: as many as pay, by what is measured meanwhile.",
    ),
]


class Speculating:
    """What a command was asked for, checked before a model is loaded."""

    def __init__(self, draft: str | None, lookup: bool | None, tokens: str) -> None:
        """Raise `UsageError` where `tokens` are no number that can be proposed."""
        if tokens != "auto" and not (tokens.isdecimal() and 1 <= int(tokens) <= _MOST):
            raise UsageError(f"--draft-tokens must be auto or a number from 1 to {_MOST}, not {tokens!r}.")
        self._draft, self._lookup = draft, lookup
        self._tokens = None if tokens == "auto" else int(tokens)
        self._found: Checkpoint | None = None
        self._loaded: LoadedModel | None = None
        self._has_helped = False

    def find(self) -> None:
        """Find the draft model, if there is to be one; without that it takes no part."""
        if self._draft is not None:
            self._found = find_checkpoint(self._draft)

    def engine(
        self,
        loaded: LoadedModel,
        *,
        context: int | None,
        threads: int | None,
        device: str,
        dtype: str,
        chat: bool = True,
    ) -> Engine:
        """An engine for `loaded` with the help that was asked for; `chat` as for `LoadedModel.engine`.

        Raises:
            UsageError: the draft model has another vocabulary, unless it has helped another model before.
        """
        if self._found is not None and self._loaded is None:
            self._loaded = load_model(self._found, device=device, dtype=dtype, threads=threads)

        def made(draft: LoadedModel | None) -> Engine:
            return loaded.engine(
                context_length=context,
                threads=threads,
                draft=draft,
                lookup=self._lookup,
                draft_tokens=self._tokens,
                chat=chat,
            )

        try:
            engine = made(self._loaded)
        except UsageError as error:
            if not self._has_helped:
                raise
            engine = made(None)
            terminal.note(f"{error} It goes on without a draft.")
        self._has_helped = True
        return engine
