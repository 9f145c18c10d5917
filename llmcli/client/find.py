"""Find the running server that computes what this process would compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcli import __version__
from llmcli.server.registry import (
    Identity,
    ServerState,
    file_marks,
    model_files,
    running_servers,
    template_mark,
)


@dataclass(frozen=True)
class WantedModel:
    """The model that a command needs, as its options name it."""

    model: str | None
    """A path or a name; None is the starter model."""
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    edits: Sequence[str] = ()
    """Names or files of edits."""
    template: str | None = None
    context: int | None = None


def find_server(wanted: WantedModel) -> ServerState | None:
    """The server that holds `wanted`; None if there is none, or if the model is not on this machine.

    Raises:
        LlmcliError: there is no model or edit of that name.
    """
    running = running_servers()
    if not running:
        return None
    identity = _identity(wanted)
    return None if identity is None else next((state for state in running if state.holds(identity)), None)


def _identity(wanted: WantedModel) -> Identity | None:
    from llmcli.errors import ModelNotFoundError
    from llmcli.hub.resolve import resolve

    try:
        path = resolve(wanted.model, fetch=False)
    except ModelNotFoundError:
        return None
    try:
        return Identity(
            __version__,
            file_marks(model_files(path)),
            wanted.device,
            wanted.dtype,
            wanted.quantize,
            file_marks(_edit_files(wanted.edits)),
            template_mark(wanted.template),
            wanted.context,
        )
    except OSError:  # loading it will say what is wrong
        return None


def _edit_files(names: Sequence[str]) -> list[Path]:
    if not names:
        return []
    from llmcli.checkpoint.edits.store import find_edit

    return [find_edit(name) for name in names]
