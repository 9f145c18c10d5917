"""Load a model for a command, with progress and notes on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmcli.commands.shared.options.model import ModelOptions
from llmcli.startup.garbage_collection import gc_disabled
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.edits.edit_file import Edit
    from llmcli.loaded_model import LoadedModel


# What looks into a model computes in float32 up to this size: 6 GB of weights.
_PRECISE_UP_TO = 1_500_000_000


def find_checkpoint(name: str | None, *, weights: bool = True) -> Checkpoint:
    """Find the model, fetch it if need be, and read its headers; progress goes to stderr.

    With `weights` the caller is going to read weights: their files and torch begin to load in the background.
    """
    with progress_bar() as progress:
        # Found first: a wrong name must not cost the seconds that importing torch takes.
        from llmcli.hub.resolve import resolve

        path = resolve(name, progress=progress)
    from llmcli.startup.open_ahead import open_ahead

    return open_ahead(path, weights=weights)


def load_model(
    checkpoint: Checkpoint,
    options: ModelOptions,
    *,
    template: str | None = None,
    precise: bool = False,
    may_quantize: bool = True,
) -> LoadedModel:
    """Read the weights of the model found and apply edits to them; progress and notes go to stderr.

    `template` is the chat template asked for. `precise` makes "auto" mean float32 for all but large models: in small
    effects, rounding shows. With `options.readable`, weights have a type the readable model is fast in, for commands
    that compute with it alone. `may_quantize` says whether the command has a --quantize to recommend where the model
    does not fit.
    """
    with gc_disabled():
        from llmcli.api import load_checkpoint
        from llmcli.inspection.evaluation.flops import account
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    dtype = options.dtype
    if precise and dtype == "auto" and account(checkpoint).parameters <= _PRECISE_UP_TO:
        dtype = "float32"
    edits = read_edit_files(checkpoint, options.edit) if options.edit else ()
    with progress_bar() as progress, gc_disabled():
        loaded = load_checkpoint(
            checkpoint,
            device=options.device,
            dtype=dtype,
            quantize=options.quantize,
            template=template,
            context_length=options.context,
            edits=edits,
            progress=lambda done, total: progress("Loading the model", done, total),
            readable=options.readable,
            # Commands that look inside have no such flag.
            may_quantize=may_quantize and not (precise or options.readable),
            tell=terminal.note,
        )
    for note in loaded.notes:
        terminal.note(note)
    return loaded


def read_edit_files(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[Edit, ...]:
    """The edits of those names or in those files, if they are for that model; progress goes to stderr."""
    from llmcli.checkpoint.edits.edit_file import read_edits
    from llmcli.checkpoint.edits.store import find_edit

    files = [find_edit(name) for name in names]
    with progress_bar() as progress:
        return read_edits(checkpoint, files, lambda done, total: progress("Hashing the model's files", done, total))
