"""Loading a model for a command: with progress where a person is waiting, and with what they should know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.views import terminal
from llmcli.views.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.api import LoadedModel


def load_model(name: str | None, *, device: str, dtype: str, quiet: bool, template: str | None = None) -> LoadedModel:
    """Find, fetch if need be, and load the model; progress and notes go to stderr."""
    with progress_bar(enabled=not quiet) as progress:
        # Found first: a wrong name must not cost the seconds that importing torch takes.
        from llmcli.checkpoint.resolve import resolve

        path = resolve(name, progress=progress)
        from llmcli.api import load_checkpoint
        from llmcli.checkpoint.opened import open_checkpoint

        loaded = load_checkpoint(
            open_checkpoint(path),
            device=device,
            dtype=dtype,
            template=template,
            progress=lambda done, total: progress("Loading the model", done, total),
        )
    if not quiet:
        for note in loaded.notes:
            terminal.note(note)
    return loaded
