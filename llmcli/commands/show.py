"""`llm show`: what a model is, without loading its weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands import options
from llmcli.views import terminal
from llmcli.views.progress import progress_bar

if TYPE_CHECKING:
    from llmcli.checkpoint.opened import Checkpoint


def show(
    name: Annotated[
        str | None, typer.Argument(help="A folder, a .gguf file or a model's name. Default: the starter.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    color: options.Color = None,
) -> None:
    """Show a model's architecture, sizes, chat template and stop tokens."""
    from llmcli.checkpoint.resolve import resolve

    with progress_bar() as progress:
        path = resolve(name, progress=progress)
    from llmcli.checkpoint.opened import open_checkpoint
    from llmcli.inspection.accounting import account
    from llmcli.views.model_card import ModelCard, model_json, model_tree

    checkpoint = open_checkpoint(path)
    parts = checkpoint.read_text_parts()
    card = ModelCard(
        name=checkpoint.name,
        path=str(checkpoint.path),
        format=checkpoint.format,
        family=checkpoint.family,
        config=checkpoint.config,
        account=account(checkpoint),
        vocabulary=parts.tokenizer.vocab_size,
        template=parts.template_origin,
        stop_tokens=[(token, parts.tokenizer.piece(token), origins) for token, origins in parts.stop_ids.items()],
        generation_defaults=dict(parts.generation_defaults),
        notes=checkpoint.notes + parts.tokenizer.notes,
        runs=_how_it_runs(checkpoint),
    )
    if as_json:
        terminal.write_line(json.dumps(model_json(card), ensure_ascii=False))
    else:
        terminal.console_out().print(model_tree(card))


def _how_it_runs(checkpoint: Checkpoint) -> str:
    """Which implementation would run it on this machine, and if it is the slower one, why."""
    from llmcli.device import choose_device
    from llmcli.kernels import why_not_on_cpu
    from llmcli.kernels.cpu_build import load_library

    device = choose_device("auto")
    if reason := why_not_on_cpu(checkpoint.config, device):
        return f"on {device.type} by the readable model ({reason})"
    return f"on {device.type} by the C kernel ({load_library().isa})"
