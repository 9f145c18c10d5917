"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import typer

from llmcli.commands.shared.prompt_input import argument_text, configure_encoding
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

_MODEL, _LOOK = "Model", "Seeing inside"


def text(parameter: typer.CallbackParam, value: Any) -> Any:
    """The callback of a parameter that takes a text, a list or a tuple of texts, or None; see `argument_text`."""
    name = next((name for name in parameter.opts if name.startswith("-")), f"The {parameter.human_readable_name}")
    if isinstance(value, str):
        return argument_text(value, name)
    return type(value)(argument_text(each, name) for each in value) if isinstance(value, list | tuple) else value


Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="LLMCLI_MODEL",
        metavar="NAME|PATH",
        rich_help_panel=_MODEL,
        help="A folder, a .gguf file, a pulled model or a hub name owner/name. Default: the starter model.",
    ),
]
Edit: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        "-e",
        envvar="LLMCLI_EDIT",
        metavar="NAME|FILE",
        rich_help_panel=_MODEL,
        help="Lay an edit that llm edit has made over the weights. May be given several times.",
    ),
]
Context: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--context",
        envvar="LLMCLI_CONTEXT",
        metavar="N",
        rich_help_panel=_MODEL,
        help="Limit prompt and reply together to N tokens.",
    ),
]
Device: TypeAlias = Annotated[
    str,
    typer.Option("--device", envvar="LLMCLI_DEVICE", rich_help_panel=_MODEL, help="auto, cpu, cuda, cuda:N or mps."),
]
Dtype: TypeAlias = Annotated[
    str,
    typer.Option("--dtype", envvar="LLMCLI_DTYPE", rich_help_panel=_MODEL, help="auto, float32, bfloat16 or float16."),
]
Readable: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--readable",
        rich_help_panel=_MODEL,
        help="Compute with the readable PyTorch model, not with the fast path that `generate` takes.",
    ),
]
Quantize: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        envvar="LLMCLI_QUANTIZE",
        metavar="int8|int4",
        rich_help_panel=_MODEL,
        help="Round the weights to so many bits while they are read: less memory, and faster.",
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        envvar="LLMCLI_THREADS",
        metavar="N",
        min=1,
        max=1024,
        rich_help_panel=_MODEL,
        help="Compute with N threads on a CPU. Default: one for each physical core.",
    ),
]
System: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--system",
        "-s",
        "--system-prompt",
        envvar="LLMCLI_SYSTEM",
        metavar="TEXT",
        callback=text,
        help="What the model is told before the conversation.",
    ),
]
StrictSystem: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--strict-system",
        envvar="LLMCLI_STRICT_SYSTEM",
        help="Refuse a system prompt that the chat template does not write, instead of putting it before the prompt.",
    ),
]
TemplateName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--chat-template",
        "--template",
        envvar=["LLMCLI_CHAT_TEMPLATE", "LLMCLI_TEMPLATE"],
        metavar="FILE|NAME",
        rich_help_panel=_MODEL,
        help="Write the conversation with the chat template in this file, or with that of the model's of this name.",
    ),
]
TemplateArg: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        envvar="LLMCLI_TEMPLATE_ARG",
        callback=text,
        metavar="KEY=VALUE",
        rich_help_panel=_MODEL,
        help="Set a variable of the chat template, as in enable_thinking=false. May be given several times.",
    ),
]
NoThinking: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-thinking",
        envvar="LLMCLI_NO_THINKING",
        help="Answer without thinking first, where the chat template can turn it off or opens the thought itself.",
    ),
]
Probs: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--probs", envvar="LLMCLI_PROBS", rich_help_panel=_LOOK, help="Colour every token by its probability."
    ),
]
Top: TypeAlias = Annotated[
    int,
    typer.Option(
        "--top",
        envvar="LLMCLI_TOP",
        metavar="N",
        min=0,
        rich_help_panel=_LOOK,
        help="List for every token the N most probable ones.",
    ),
]
Attention: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--attention",
        envvar="LLMCLI_ATTENTION",
        rich_help_panel=_LOOK,
        help="List for every token what the model looked at to say it.",
    ),
]
AttentionBy: TypeAlias = Annotated[
    Literal["token", "word", "line", "message"],
    typer.Option(
        "--attention-by",
        envvar="LLMCLI_ATTENTION_BY",
        rich_help_panel=_LOOK,
        help="Sum what it looked at over such stretches of the text.",
    ),
]
ShowStats: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--stats", envvar="LLMCLI_STATS", rich_help_panel=_LOOK, help="Tokens, times, speed and memory, on stderr."
    ),
]


NoNewline: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--no-newline",
        envvar="LLMCLI_NO_NEWLINE",
        rich_help_panel="Output",
        help="Into a pipe or file, write the bytes of the reply alone, without a newline after them.",
    ),
]


def _configure_color(color: bool | None) -> bool | None:
    if color is not None:
        terminal.configure(color)
    return color


Color: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--color/--no-color",
        envvar="LLMCLI_COLOR",
        callback=_configure_color,
        is_eager=True,
        help="Colour on or off. Default: on in a terminal, unless NO_COLOR is set.",
    ),
]
"""Acts by being given: whatever writes to the terminal asks `views.terminal`."""


def _configure_encoding(name: str | None) -> str | None:
    configure_encoding(name)
    return name


Encoding: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        envvar="LLMCLI_ENCODING",
        metavar="NAME",
        callback=_configure_encoding,
        # Before the callbacks of texts.
        is_eager=True,
        help="How text that is read is encoded, as in cp1252. Default: as its byte order mark says, else UTF-8, else "
        "as the locale says.",
    ),
]
"""Acts by being given, on all text that is read from files, standard input and the command line."""


def _set_quiet(quiet: bool) -> bool:
    terminal.set_quiet(quiet)
    return quiet


Quiet: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        envvar="LLMCLI_QUIET",
        callback=_set_quiet,
        # Before anything writes a note.
        is_eager=True,
        help="No notes and no progress on stderr; errors still are.",
    ),
]
"""Takes effect by its callback: whatever writes notes or progress asks `views.terminal`."""


def is_flag_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter's value comes from the command line, not from a variable or the settings file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_NOT_FOR_USERS = ("self", "messages", "add_generation_prompt")


def template_variables(arguments: Sequence[str] | None) -> dict[str, object]:
    """Variables for the chat template from `KEY=VALUE` arguments; values are those of JSON, Python and YAML, or texts.

    Raises:
        UsageError: an argument of another form, or a variable that is not the user's to set.
    """
    from llmcli.text.chat_template.variables import template_value

    variables: dict[str, object] = {}
    for argument in arguments or ():
        key, sign, text = argument.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--template-arg {argument} is not of the form KEY=VALUE, as in enable_thinking=false.")
        if key in _NOT_FOR_USERS:
            raise UsageError(f"--template-arg cannot set {key}: it is not a variable of the template.")
        variables[key] = template_value(text)
    return variables
