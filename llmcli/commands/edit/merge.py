"""`llm edit merge`: a new checkpoint with edits in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcli.commands.shared.completion import EDITS
from llmcli.commands.shared.load_model import find_checkpoint, read_edit_files
from llmcli.commands.shared.options.flags import MODEL, flag, only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import LlmcliError
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar


@with_options
def merge(
    edits: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME|FILE...", autocompletion=EDITS, help="Names that `llm edit list` shows, or files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the new checkpoint.")],
    *,
    model_options: Annotated[ModelOptions, only("model")],
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        flag(
            "--dtype",
            env=False,
            panel=MODEL,
            help="Type of the stored weights. auto: unchanged, float32 for quantized ones.",
        ),
    ] = "auto",
    terminal_options: Annotated[TerminalOptions, only("quiet")],
) -> None:
    """Write a new checkpoint with edits in its weights (safetensors). The original stays as it is."""
    if out.exists():
        raise LlmcliError(f"{out} exists already; give a new folder.")
    checkpoint = find_checkpoint(model_options.model)
    found = read_edit_files(checkpoint, edits)

    import torch

    from llmcli.checkpoint.edits.merge import merge as merge_edits

    kind = None if dtype == "auto" else getattr(torch, dtype)
    with progress_bar() as progress:
        merge_edits(
            checkpoint, found, out, dtype=kind, progress=lambda done, total: progress("Writing the model", done, total)
        )
    terminal.note(f"Written to {out}. Use it with -m {out}.")
