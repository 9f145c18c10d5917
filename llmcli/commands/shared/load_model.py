"""Load a model for a command, with progress and notes on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.commands.shared.options.model import ModelOptions
from llmcli.startup.garbage_collection import gc_disabled
from llmcli.startup.openmp import set_torch_threads
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.edits.edit_file import Edit
    from llmcli.loaded_model import LoadedModel


# Parameters up to which inspections compute in float32: 6 GB of weights.
_PRECISE_UP_TO = 1_500_000_000
# Seconds until it is shown that the start takes long: importing torch and loading a small model take less.
_START_DELAY_S = 0.9


def find_checkpoint(name: str | None, *, weights: bool = True) -> Checkpoint:
    """Find the model, download it if necessary, and read its headers; progress goes to stderr.

    `weights`: the caller will read the weights, so reading their files and importing torch begin in the background.
    """
    with progress_bar() as progress:
        # First, so that a wrong name is reported without waiting for the import of torch.
        from llmcli.hub.resolve import resolve

        path = resolve(name, progress=progress)
    from llmcli.startup.open_ahead import open_ahead

    if not weights:
        return open_ahead(path, weights=False)
    with progress_bar("Starting", unit="", delay_s=_START_DELAY_S):
        return open_ahead(path, weights=True)


def load_model(
    checkpoint: Checkpoint,
    options: ModelOptions,
    *,
    template: str | None = None,
    precise: bool = False,
    may_quantize: bool = True,
) -> LoadedModel:
    """Read the weights of `checkpoint` and apply edits to them; progress and notes go to stderr.

    - `template`: the name or file of another chat template.
    - `precise`: the dtype "auto" means float32 except for large models, because rounding would hide small effects.
    - `options.readable`: load weights in a dtype in which the readable model is fast, for commands that use only it.
    - `may_quantize`: the command has --quantize, which the error for a model that does not fit recommends.
    """
    edits = read_edit_files(checkpoint, options.edit) if options.edit else ()
    with progress_bar("Loading the model", delay_s=_START_DELAY_S) as progress, gc_disabled():
        from llmcli.api import load_checkpoint
        from llmcli.inspection.evaluation.flops import account

        set_torch_threads(options.threads)
        dtype = options.dtype
        if precise and dtype == "auto" and account(checkpoint).parameters <= _PRECISE_UP_TO:
            dtype = "float32"
        loaded = load_checkpoint(
            checkpoint,
            device=options.device,
            dtype=dtype,
            quantize=options.quantize,
            kv_cache=options.kv_cache,
            template=template,
            context_length=options.context,
            edits=edits,
            tensor_parallel=options.ranks if options.pipeline_parallel == 1 else 1,
            pipeline_parallel=options.pipeline_parallel,
            threads=options.threads,
            progress=lambda done, total: progress("Loading the model", done, total),
            readable=options.readable,
            # Inspect commands have no --quantize.
            may_quantize=may_quantize and not (precise or options.readable),
            tell=terminal.note,
        )
    for note in loaded.notes:
        terminal.note(note)
    return loaded


def read_edit_files(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[Edit, ...]:
    """Read edits, by name or file, and check that they belong to the model; progress goes to stderr."""
    from llmcli.checkpoint.edits.edit_file import read_edits
    from llmcli.checkpoint.edits.store import find_edit

    files = [find_edit(name) for name in names]
    with progress_bar() as progress:
        return read_edits(checkpoint, files, lambda done, total: progress("Hashing the model's files", done, total))
