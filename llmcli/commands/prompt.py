"""`llm prompt`: save, list, show and delete prompt templates."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcli.commands.shared import prompt_template_files
from llmcli.commands.shared.completion import PROMPT_TEMPLATES
from llmcli.commands.shared.options.flags import only, text_or_at_file, with_options
from llmcli.commands.shared.options.terminal import TerminalOptions
from llmcli.commands.shared.prompt_input import read_prompt
from llmcli.commands.shared.prompt_template_files import PromptTemplate
from llmcli.commands.shared.usage_errors import PromptGroup
from llmcli.text.chat_template.json_text import json_text
from llmcli.views.terminal import terminal

app = typer.Typer(
    name="prompt",
    cls=PromptGroup,
    help="Save prompts with places to fill, for llm generate -T NAME.",
    no_args_is_help=True,
)


@app.command("save")
@with_options
def save(
    name: Annotated[str, typer.Argument(help="Its name.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt, with {input} in the place of the text. Default or -: piped text.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            "-s",
            metavar="TEXT|@FILE",
            callback=text_or_at_file,
            help="A system prompt to save with it, or @ and a file with it.",
        ),
    ] = None,
    *,
    terminal_options: Annotated[TerminalOptions, only("encoding")],
) -> None:
    """Save a prompt. {input} marks the place of the text, {key} that of --param key=value; {{key}} gives {key}."""
    template = PromptTemplate(name, read_prompt(prompt), system)
    path, aside = prompt_template_files.save(template)
    if aside is not None:
        terminal.note(f"{path} could not be read as a prompt template; it was renamed to {aside}.")
    places = f" Places to fill: {', '.join(template.places)}." if template.places else ""
    terminal.note(f"Saved as {path}.{places}")


@app.command("list")
def list_(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False) -> None:
    """List the saved prompts."""
    found, damaged = prompt_template_files.prompt_templates()
    for error in damaged:
        terminal.note(str(error))
    if as_json:
        terminal.write_line(json_text([_plain(template) for template in found]))
        return
    if not (found or damaged):
        terminal.note("There are no prompt templates; `llm prompt save NAME PROMPT` makes one.")
    width = max((len(template.name) for template in found), default=0)
    for template in found:
        first = (template.prompt.strip().splitlines() or [""])[0]
        terminal.write_line(f"{template.name.ljust(width)}  {first if len(first) <= 80 else first[:79] + '…'}")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(autocompletion=PROMPT_TEMPLATES, help="A saved prompt.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print a saved prompt, and its system prompt on stderr."""
    template = prompt_template_files.find(name)
    if as_json:
        terminal.write_line(json_text(_plain(template)))
        return
    if template.system is not None:
        terminal.note(f"System prompt: {template.system}")
    terminal.write_line(template.prompt)


@app.command("rm")
def remove(name: Annotated[str, typer.Argument(autocompletion=PROMPT_TEMPLATES, help="A saved prompt.")]) -> None:
    """Delete a saved prompt."""
    prompt_template_files.remove(name)
    terminal.note(f"{name} is deleted.")


def _plain(template: PromptTemplate) -> dict[str, object]:
    return {
        "name": template.name,
        "prompt": template.prompt,
        "system": template.system,
        "places": list(template.places),
    }
