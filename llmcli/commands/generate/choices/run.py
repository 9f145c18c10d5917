"""Prepare a choice among given answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.commands.generate.choices.source import ChoiceSource, LocalChoices, ServedSource
from llmcli.commands.generate.prepare import Run, asked, prepare_local, tell_begin, unless_gone
from llmcli.commands.shared.server import server_for

if TYPE_CHECKING:
    from llmcli.commands.generate.request import CheckedRequest
    from llmcli.commands.generate.saving import SavedRun


@dataclass(frozen=True)
class ChoiceRun(Run):
    """A run that compares given answers."""

    source: ChoiceSource


@contextmanager
def prepared_choice(request: CheckedRequest, saved: SavedRun) -> Iterator[ChoiceRun]:
    """Prepare a choice among answers, and write the notes on its prompt to stderr.

    Raises:
        LlmcliError: the model cannot be loaded, or the request does not suit it.
    """
    source: ChoiceSource = _served(request, saved) or LocalChoices(prepare_local(request, saved), request)
    with closing(source):
        tell_begin(source.begin)
        yield ChoiceRun(request, source, saved)


def _served(request: CheckedRequest, saved: SavedRun) -> ServedSource | None:
    """The choice by a running server that holds the model; None if there is none."""
    options = request.options
    server = server_for(options.model, template=options.prompt.chat_template)
    if server is None:
        return None
    before = saved.messages(server.model, server.vocab_size) if saved.is_continued else ()
    return unless_gone(lambda: ServedSource(server, asked(request, before, saved=saved.is_kept), request))
