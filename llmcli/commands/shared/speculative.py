"""Make engines with speculative decoding for a command with `--draft`, `--lookup` and `--draft-tokens`."""

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
    """Makes engines that speculate with the requested draft model or lookup."""

    def __init__(self, options: SpeculationOptions) -> None:
        """Raise `UsageError` for an invalid `--draft-tokens`; loads no model."""
        self._options, self._tokens = options, options.count()
        self._found: Checkpoint | None = None
        self._draft: LoadedModel | None = None
        self._has_drafted = False

    @property
    def can_change_text(self) -> bool:
        """Whether it was asked for something that can change the texts that are drawn: a draft model, or a lookup."""
        return self._options.draft is not None or bool(self._options.lookup)

    def find(self) -> None:
        """Find the draft model of `--draft`. Without this call engines have no draft model."""
        if self._options.draft is not None:
            self._found = find_checkpoint(self._options.draft)

    def engine(self, loaded: LoadedModel, options: ModelOptions, *, chat: bool = True) -> Engine:
        """Make an engine for `loaded`; `chat` is as for `LoadedModel.engine`. The first call loads the draft model.

        After a first engine with it, a model with another vocabulary gets an engine without a draft model and a note.

        Raises:
            UsageError: in the first call, the draft model has another vocabulary than `loaded`.
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
            terminal.note(f"{error} The reply is generated without a draft model.")
        self._has_drafted = True
        return engine
