"""What the commands that look into a model share: their text, their model, and the ways to show what they found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from llmcli.commands.loading import load_model
from llmcli.commands.prompt_input import read_prompt
from llmcli.errors import UsageError
from llmcli.views import terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from llmcli.api import LoadedModel
    from llmcli.text.template import ChatTemplate
    from llmcli.text.tokenizer import Tokenizer

_OUTPUT = "Output"

Text: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[TEXT|-]", help="The text to look at; - or nothing is piped text.")
]
Chat: TypeAlias = Annotated[bool, typer.Option("--chat", help="As a message in the chat template, not as raw text.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="As one JSON object.")]
Html: TypeAlias = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", rich_help_panel=_OUTPUT, help="Also write an HTML page.")
]
Svg: TypeAlias = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", rich_help_panel=_OUTPUT, help="Also write an SVG picture.")
]


def load_to_inspect(name: str | None, *, device: str, dtype: str, quiet: bool) -> LoadedModel:
    """Load a model to look into, in float32 unless `dtype` says otherwise or it would not fit comfortably."""
    return load_model(name, device=device, dtype=dtype, quiet=quiet, precise=True)


def text_ids(tokenizer: Tokenizer, template: ChatTemplate | None, content: str, *, chat: bool, model: str) -> list[int]:
    """The tokens of a text, raw or as a user's message that is to be answered.

    Raises:
        UsageError: the model has no chat template.
    """
    from llmcli.text.chat_prompt import Message, encode_chat, encode_raw

    if not chat:
        return encode_raw(tokenizer, content)
    if template is None:
        raise UsageError(f"{model} has no chat template; leave --chat out.")
    return encode_chat(tokenizer, template, [Message("user", content)])


def read_text(argument: str | None, *, quiet: bool) -> str:
    """The text argument alone, or what was piped in where there is none or it is "-".

    Raises:
        UsageError: there is no text.
    """
    if argument is None or argument == "-":
        return read_prompt(argument, quiet=quiet)
    if not argument:
        raise UsageError("The text is empty. Give a text, or pipe one in.")
    return argument.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def present(
    view: RenderableType,
    *,
    schema: str,
    value: object,
    as_json: bool,
    html: Path | None,
    svg: Path | None,
    after: Sequence[RenderableType] = (),
) -> None:
    """Show what was found: on stdout as the view or as JSON, and in the files asked for.

    `after` is what a person is told beside it, a legend say; it goes to stderr.
    """
    from rich.console import Group

    whole = Group(view, *after)
    if html is not None:
        from llmcli.views.export import as_html

        html.write_text(as_html(whole), encoding="utf-8")
    if svg is not None:
        from llmcli.views.export import as_svg

        svg.write_text(as_svg(whole, title=f"llm inspect {schema.split('.')[1].split('/')[0]}"), encoding="utf-8")
    if as_json:
        from llmcli.views.plain_json import json_line

        terminal.write_line(json_line(schema, value))
        return
    terminal.console_out().print(view)
    for line in after:
        terminal.console_err().print(line)
