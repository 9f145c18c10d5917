"""The engine of a command with `--draft`, `--lookup` and `--draft-tokens`: several tokens in one pass of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.engine import Engine
    from llmcli.loaded_model import LoadedModel


class Speculator:
    """Makes engines with the draft model or the lookup that was asked for."""

    def __init__(self, options: SpeculationOptions) -> None:
        """Raise `UsageError` for a `--draft-tokens` that makes no sense, before a model is loaded."""
        self._options, self._tokens = options, options.count()
        self._found: Checkpoint | None = None
        self._draft: LoadedModel | None = None
        self._has_drafted = False

    def find(self) -> None:
        """Find the draft model, if one is asked for. Without this call there is no draft."""
        if self._options.draft is not None:
            self._found = find_checkpoint(self._options.draft)

    def engine(self, loaded: LoadedModel, options: ModelOptions, *, chat: bool = True) -> Engine:
        """An engine for `loaded`; `chat` as for `LoadedModel.engine`. The first call loads the draft model.

        Raises:
            UsageError: the draft model has another vocabulary, unless it has drafted for another model before.
        """
        if self._found is not None and self._draft is None:
            self._draft = load_model(self._found, replace(options, edit=None, quantize=None, context=None))

        def made(draft: LoadedModel | None) -> Engine:
            return loaded.engine(
                context_length=options.context,
                threads=options.threads,
                draft=draft,
                lookup=self._options.lookup,
                draft_tokens=self._tokens,
                chat=chat,
            )

        try:
            engine = made(self._draft)
        except UsageError as error:
            if not self._has_drafted:
                raise
            engine = made(None)
            terminal.note(f"{error} It goes on without a draft.")
        self._has_drafted = True
        return engine
