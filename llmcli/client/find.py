"""Find the running server that computes what this process would compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcli import __version__
from llmcli.errors import LlmcliError
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
    kv_cache: str = "auto"


def find_server(wanted: WantedModel) -> ServerState | None:
    """The server that holds `wanted`; None if there is none, or if the model is not on this machine.

    Raises:
        LlmcliError: there is no model or edit of that name.
    """
    running = running_servers()
    if not running:
        return None
    identity = identity_of(wanted)
    return None if identity is None else next((state for state in running if state.holds(identity)), None)


def identity_of(wanted: WantedModel) -> Identity | None:
    """What a server must hold; None if the model is not on this machine, or its files are not complete.

    Raises:
        LlmcliError: there is no edit of that name, or the template file cannot be read.
    """
    try:
        path = model_path(wanted.model)
    except LlmcliError:  # loading it will say what is wrong
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
            wanted.kv_cache,
        )
    except OSError:
        return None


def model_path(name: str | None) -> Path:
    """The file or folder that is loaded for a model on this machine: of a folder with a GGUF file alone, that file.

    Raises:
        LlmcliError: there is no model of that name.
    """
    from llmcli.hub.resolve import resolve

    path = resolve(name, fetch=False)
    if not path.is_dir():
        return path
    from llmcli.checkpoint.files.model_files import weight_files
    from llmcli.checkpoint.files.model_folder import FolderIndexes, file_names
    from llmcli.checkpoint.gguf.model_files import gguf_of_folder

    weights = weight_files(file_names(path), FolderIndexes(path).shards, where=str(path))
    return gguf_of_folder(path) if weights is None else path


def _edit_files(names: Sequence[str]) -> list[Path]:
    if not names:
        return []
    from llmcli.checkpoint.edits.store import find_edit

    return [find_edit(name) for name in names]
