"""`llm doctor`: show this machine's devices and libraries, and check a model's files."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared.load_model import find_checkpoint
from llmcli.commands.shared.options.flags import only, with_options
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.output import ViewOptions
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.settings_file import default_map
from llmcli.errors import UsageError
from llmcli.paths import settings_path
from llmcli.views.terminal import terminal


@with_options
def doctor(
    command: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Also check the files of this model, without reading its weights."),
    ] = None,
    *,
    model_options: Annotated[ModelOptions, only("device", "dtype")],
    view_options: Annotated[ViewOptions, only("as_json")],
    terminal_options: Annotated[TerminalOptions, only("color", "quiet")],
) -> None:
    """Show devices, libraries and folders, and check a model's files. Exit code 1 if something is wrong."""
    from llmcli.doctor.finding import Finding
    from llmcli.doctor.kernels import kernel_findings
    from llmcli.doctor.machine import machine
    from llmcli.views.reports.doctor import SCHEMA, findings_view, machine_table
    from llmcli.views.terminal.to_json import json_line

    device, dtype = model_options.device, model_options.dtype
    facts = machine(device, dtype)
    of_kernels = kernel_findings(device)
    path = settings_path()
    findings = []
    try:
        default_map(command.obj)
        words = "valid settings" if path.is_file() else "no config file (optional)"
        findings.append(Finding("good", str(path), words))
    except UsageError as error:
        findings.append(Finding("problem", str(path), str(error)))
    name, of_model = "", []
    if model is not None:
        checkpoint = find_checkpoint(model)
        from llmcli.doctor.model_checks import check_model

        name, of_model = checkpoint.name, check_model(checkpoint, device=device, dtype=dtype)
    if view_options.as_json:
        value = {
            "machine": facts,
            "kernels": of_kernels,
            "settings": findings,
            "model": name or None,
            "findings": of_model,
        }
        terminal.write_line(json_line(SCHEMA, value))
    else:
        terminal.console_out().print(machine_table(facts))
        if of_kernels:
            terminal.console_out().print(findings_view("kernels", of_kernels))
        terminal.console_out().print(findings_view("settings", findings))
        if name:
            terminal.console_out().print(findings_view(name, of_model))
    if any(finding.level == "problem" for finding in (*of_kernels, *findings, *of_model)):
        raise typer.Exit(1)
