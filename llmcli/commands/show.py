"""`llm show`: describe a model without loading its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmcli.commands.shared.completion import MODELS
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.errors import CheckpointError, UsageError
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal
from llmcli.views.terminal.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmcli.checkpoint.checkpoint import Checkpoint
    from llmcli.checkpoint.text_assets import TextParts


@with_options
def show(
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=MODELS, help="A folder, a .gguf file or a model's name. Default: the starter."),
    ] = None,
    template: Annotated[
        bool, typer.Option("--template", help="Print the source and SHA-256 of its chat templates instead.")
    ] = False,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="NxSIZE|auto", help="Plan it on GPUs, as 2x80GB: memory, context and speed."),
    ] = None,
    *,
    model_options: Annotated[ModelOptions, only("quantize", "context")],
    view_options: Annotated[ViewOptions, only("as_json")],
    terminal_options: Annotated[TerminalOptions, only("color")],
) -> None:
    """Show a model's architecture, sizes, chat template and stop tokens."""
    from llmcli.hub.resolve import resolve

    with progress_bar() as progress:
        path = resolve(name, progress=progress)
    from llmcli.checkpoint.checkpoint import open_checkpoint
    from llmcli.inspection.evaluation.flops import account
    from llmcli.views.reports.show import ModelCard, model_json, model_tree

    checkpoint = open_checkpoint(path)
    if plan is not None:
        _show_plan(checkpoint, plan, model_options, as_json=view_options.as_json)
        return
    if model_options.quantize is not None or model_options.context is not None:
        raise UsageError("--quantize and --context are settings of --plan.")
    parts = checkpoint.read_text_parts()
    if template:
        _show_templates(parts, as_json=view_options.as_json)
        return
    stops, text_notes = _replies(parts)
    card = ModelCard(
        name=checkpoint.name,
        path=str(checkpoint.path),
        format=checkpoint.format,
        family=checkpoint.family,
        config=checkpoint.config,
        account=account(checkpoint),
        vocabulary=parts.tokenizer.vocab_size,
        template=parts.template_origin,
        stop_tokens=[(token, parts.tokenizer.piece(token), origins) for token, origins in stops.items()],
        generation_defaults=dict(parts.generation_defaults),
        notes=checkpoint.notes + text_notes,
        runs=_how_it_runs(checkpoint),
    )
    if view_options.as_json:
        terminal.write_line(json_text(model_json(card)))
    else:
        terminal.console_out().print(model_tree(card))


def _show_plan(checkpoint: Checkpoint, text: str, options: ModelOptions, *, as_json: bool) -> None:
    import torch

    from llmcli.api import choose_packing
    from llmcli.checkpoint.split_plan import parse_cards, ranges, split_plan
    from llmcli.views.reports.plan import plan_json, plan_text

    packing = choose_packing(options.quantize, torch.device("cuda"))
    plan = split_plan(checkpoint, parse_cards(text), context=options.context, packing=packing)
    if as_json:
        terminal.write_line(json_text(plan_json(checkpoint.name, plan)))
    else:
        terminal.console_out().print(plan_text(checkpoint.name, plan, ranges(plan.rank_counts)), soft_wrap=True)


def _replies(parts: TextParts) -> tuple[Mapping[int, tuple[str, ...]], tuple[str, ...]]:
    """The tokens that end a reply, each with its sources, and notes about the files and the chat template."""
    from llmcli.text.chat.end_of_turn import turn_end

    template = parts.template()
    if template is None:
        return parts.stop_ids, parts.notes
    try:
        template.check()
    except CheckpointError as error:
        return parts.stop_ids, (*parts.notes, f"Conversations are not possible. {error}")
    end = turn_end(parts.tokenizer, template)
    notes = [
        f"The chat template ends a turn with {text!r}, which is no token: a reply ends there too." for text in end.texts
    ]
    return end.stop_ids(parts.stop_ids), (*end.notes(parts.notes), *notes[-1:])


def _show_templates(parts: TextParts, *, as_json: bool) -> None:
    """Write the templates to stdout, byte for byte in a pipe, and their names and hashes to stderr."""
    if not parts.templates:
        raise UsageError("The model has no chat template; it continues text.")
    import hashlib

    hashes = {
        name: hashlib.sha256(source.encode("utf-8", errors="surrogatepass")).hexdigest()
        for name, source in parts.templates.items()
    }
    if as_json:
        templates = [
            {"name": name, "sha256": hashes[name], "source": source} for name, source in parts.templates.items()
        ]
        whole = {"schema": "llmcli.templates/1", "origin": parts.template_origin, "templates": templates}
        terminal.write_line(json_text(whole))
        return
    for name, source in parts.templates.items():
        terminal.note(f"{name}, from {parts.template_origin}, sha256 {hashes[name]}:")
        terminal.write_line(source)


def _how_it_runs(checkpoint: Checkpoint) -> str:
    """The implementation that would run the model on this machine, and which weights it would round or decode."""
    from llmcli.device import find_device
    from llmcli.kernels.cpu.build import load_library
    from llmcli.kernels.select import why_no_kernel

    device = find_device("auto")
    if reason := why_no_kernel(checkpoint.config, device):
        return f"on {device.type} by the readable model ({reason}){_changed_weights(checkpoint, packed=False)}"
    if device.type == "cuda":
        import torch

        from llmcli.checkpoint.load_packed import default_packing

        packing = default_packing(checkpoint, torch.device("cuda"))
        return f"on cuda by Triton kernels{_changed_weights(checkpoint, packed=packing is not None)}"
    return f"on {device.type} by the C kernel ({load_library().isa}){_changed_weights(checkpoint, packed=True)}"


def _changed_weights(checkpoint: Checkpoint, *, packed: bool) -> str:
    from llmcli.checkpoint.changed_encodings import changed_encodings

    changed = changed_encodings(checkpoint, packed=packed)
    parts = [
        f"{', '.join(names)} {what}"
        for names, what in ((changed.rounded, "rounded to 8 bits"), (changed.decoded, "decoded"))
        if names
    ]
    return f"; weights in memory: {'; '.join(parts)}" if parts else ""
