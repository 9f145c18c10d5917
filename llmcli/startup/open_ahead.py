"""Open a model's files while torch is being loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.startup.garbage_collection import gc_disabled

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.folder import FolderContents
    from llmcli.checkpoint.preload import PreloadedGGUF


def open_ahead(path: Path, *, weights: bool) -> Checkpoint:
    """Open the checkpoint at `path`, a file or a folder, and read its headers.

    With `weights` the caller will read weights next: then torch and the files are loaded at the same time.
    """
    from llmcli.checkpoint.files.prefetch import read_ahead
    from llmcli.startup.preload_torch import load_torch_ahead

    if weights:
        read_ahead(path)
    with gc_disabled():
        if weights:
            load_torch_ahead()
        from llmcli.checkpoint.folder import read_folder
        from llmcli.checkpoint.gguf.model_files import gguf_of_folder
        from llmcli.checkpoint.preload import preload_gguf

        ahead: PreloadedGGUF | FolderContents | None = None
        if path.is_dir():
            ahead = read_folder(path)
            path = path if ahead else gguf_of_folder(path)
        if ahead is None:
            ahead = preload_gguf(path)
        if weights:
            from llmcli.startup.lazy_torch import import_torch

            import_torch()
        from llmcli.checkpoint.checkpoint import open_checkpoint

        return open_checkpoint(path, ahead)
