"""Declare options: `flag` for one option, `with_options` for a command that takes dataclasses of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from llmcli.commands.shared.prompt_input import argument_text, text_or_file

MODEL, PROMPT, SAMPLING, MORE_SAMPLING = "Model", "Prompt", "Sampling", "Sampling: more filters"
FORM, SHOW, OUTPUT, RUNNING, SAVED = "Form of the reply", "What to show", "Output", "Running", "Conversations"
"""The panels of `--help`."""
_ORDER = (MODEL, PROMPT, SAVED, SAMPLING, SHOW, OUTPUT, FORM, RUNNING, MORE_SAMPLING)
"""The order of the panels: the most used first. Before them come arguments and a command's own panels."""


def flag(
    *names: str,
    panel: str,
    help: str,
    env: bool = True,
    also: str | None = None,
    min: int | None = None,
    max: int | None = None,
    **more: Any,
) -> Any:
    """Declare an option with the spellings `names`, the main one first, in a `panel` of `--help`.

    `env`: the environment variable LLMCLI_<OPTION>, named after the main spelling, sets it too; `also` is one more
    variable. A value outside `min` and `max` is an error; `--help` does not show the limits.
    """
    if min is not None or max is not None:
        more["callback"] = _within(min, max)
    variable = "LLMCLI_" + names[0].split("/")[0].removeprefix("--").replace("-", "_").upper()
    variables = [variable, also] if also else variable
    return typer.Option(
        *names, envvar=variables if env else None, show_envvar=False, rich_help_panel=panel, help=help, **more
    )


OTHER_SPELLINGS = {
    "--template": "--chat-template",
    "--system-prompt": "--system",
    "--max-new-tokens": "--max-tokens",
    "--temp": "--temperature",
    "--top-nsigma": "--top-n-sigma",
    "--dynatemp-exp": "--dynatemp-exponent",
    "--typical": "--typical-p",
    "--tensor-parallel-size": "--tp",
    "--pipeline-parallel-size": "--pp",
}
"""Spellings used by other programs and earlier versions: accepted, but not in `--help`; each takes one value."""


class CommandWithOtherSpellings(TyperCommand):
    """A command that also understands `OTHER_SPELLINGS` of its options."""

    def make_parser(self, ctx: Any) -> Any:
        """Make the parser of the command line, with an unlisted option for each other spelling."""
        parser: Any = super().make_parser(ctx)
        for parameter in self.get_params(ctx):
            for spelling, name in OTHER_SPELLINGS.items():
                if name in parameter.opts:
                    parser.add_option(obj=parameter, opts=[spelling], dest=parameter.name, action="store", nargs=1)
        return parser


def _within(least: int | None, most: int | None) -> Callable[[int | None], int | None]:
    """Make the callback that checks that a value is from `least` to `most`; None is no limit."""
    limits = f"at least {least}" if most is None else f"at most {most}" if least is None else f"from {least} to {most}"

    def check(value: int | None) -> int | None:
        if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
            raise typer.BadParameter(f"{value} is not {limits}.")
        return value

    return check


def text(parameter: typer.CallbackParam, value: Any) -> Any:
    """Decode a parameter's value with `argument_text`: a text, a list or tuple of texts, or None. A Typer callback."""
    name = next((name for name in parameter.opts if name.startswith("-")), f"The {parameter.human_readable_name}")
    if isinstance(value, str):
        return argument_text(value, name)
    return type(value)(argument_text(each, name) for each in value) if isinstance(value, list | tuple) else value


def text_or_at_file(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Read a parameter's value with `text_or_file`: a text, or @FILE. A Typer callback."""
    name = next(name for name in parameter.opts if name.startswith("--"))
    return None if value is None else text_or_file(value, name)


def is_flag_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter's value comes from the command line, not from a variable or the settings file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@dataclass(frozen=True)
class Chosen:
    """The fields of a dataclass of options that a command has flags for, as part of a parameter's annotation."""

    names: tuple[str, ...]
    excludes: bool

    def has(self, name: str) -> bool:
        """Whether there is a flag for the field `name`."""
        return (name in self.names) != self.excludes


def only(*names: str) -> Chosen:
    """Select these fields; the others have no flags and keep their defaults."""
    return Chosen(names, excludes=False)


def without(*names: str) -> Chosen:
    """Select all fields but these, which have no flags and keep their defaults."""
    return Chosen(names, excludes=True)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` one flag for each field of every parameter that is a dataclass of options.

    The parameter is annotated with the dataclass, or with `Annotated[Dataclass, only(...)]` or `without(...)`. The
    annotations of the fields declare the flags.
    """
    return ExpandedCommand(command)


class ExpandedCommand:
    """A command with one parameter for each flag, as Typer and the settings file need it, in place of the dataclasses.

    The signature is computed on first use, because a process needs only that of the command it runs.
    """

    __wrapped__: Callable[..., Any]

    def __init__(self, command: Callable[..., Any]) -> None:
        self.__wrapped__ = command
        self.__name__, self.__doc__, self.__module__ = command.__name__, command.__doc__, command.__module__

    def __call__(self, **given: Any) -> None:
        """Run the command with the values of its flags."""
        arguments: dict[str, Any] = {}
        for parameter in self.parameters:
            group = option_group(parameter.annotation)
            if group is None:
                arguments[parameter.name] = given[parameter.name]
            else:
                kind, chosen = group
                values = {each.name: given[each.name] for each in fields(kind) if chosen.has(each.name)}
                arguments[parameter.name] = kind(**values)
        self.run(arguments)

    def run(self, arguments: dict[str, Any]) -> None:
        """Call the command function."""
        self.__wrapped__(**arguments)

    @cached_property
    def __signature__(self) -> inspect.Signature:
        expanded: list[inspect.Parameter] = []
        for parameter in self.parameters:
            group = option_group(parameter.annotation)
            if group is None:
                expanded.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            else:
                expanded += option_parameters(*group)
        return inspect.Signature(sorted(expanded, key=_panel_order))

    @cached_property
    def __annotations__(self) -> dict[str, Any]:  # type: ignore[override]
        return {name: parameter.annotation for name, parameter in self.__signature__.parameters.items()}

    @cached_property
    def own_parameters(self) -> list[inspect.Parameter]:
        """The parameters of the command function, with evaluated annotations."""
        return list(inspect.signature(self.__wrapped__, eval_str=True).parameters.values())

    @cached_property
    def parameters(self) -> list[inspect.Parameter]:
        """The parameters from which the flags are made; subclasses add to them."""
        return self.own_parameters


def option_group(annotation: Any) -> tuple[type[Any], Chosen] | None:
    """The dataclass of options in an annotation and its selected fields; None for any other annotation."""
    kind, chosen = annotation, without()
    if get_origin(annotation) is Annotated:
        kind, *rest = get_args(annotation)
        chosen = next((each for each in rest if isinstance(each, Chosen)), chosen)
    return (kind, chosen) if isinstance(kind, type) and is_dataclass(kind) else None


def option_parameters(kind: type[Any], chosen: Chosen) -> list[inspect.Parameter]:
    """One parameter with its flag's declaration for each of the `chosen` fields of `kind`."""
    annotations = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=_default(each), annotation=annotations[each.name]
        )
        for each in fields(kind)
        if chosen.has(each.name)
    ]


def _panel_order(parameter: inspect.Parameter) -> int:
    panels = (getattr(each, "rich_help_panel", None) for each in get_args(parameter.annotation))
    return max((1 + _ORDER.index(panel) for panel in panels if panel in _ORDER), default=0)


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
