"""Every command is a short function with few parameters: options are dataclasses, and steps are named functions."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer

from llmcli.cli import app
from llmcli.commands.shared.options.flags import MODEL, RUNNING, flag, only, with_options, without

_MOST_PARAMETERS, _MOST_LINES = 12, 80


def command_functions(group: typer.Typer, name: str = "llm") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Each command of a Typer app and of its groups, with its function."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{name} {command.name}", inspect.unwrap(command.callback)
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from command_functions(inner.typer_instance, f"{name} {inner.typer_instance.info.name}")


COMMANDS = dict(command_functions(app))


def test_all_commands_are_found() -> None:
    assert {"llm generate", "llm chat", "llm inspect lens", "llm edit fact", "llm alias set"} <= COMMANDS.keys()
    assert COMMANDS["llm generate"].__code__.co_filename.endswith("generate/command.py")
    assert COMMANDS["llm inspect lens"].__code__.co_filename.endswith("inspect/lens.py")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_short_and_has_few_parameters(name: str) -> None:
    function = COMMANDS[name]
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert node.end_lineno is not None
    assert node.end_lineno - node.lineno + 1 <= _MOST_LINES
    assert len(inspect.signature(function).parameters) <= _MOST_PARAMETERS


@dataclass(frozen=True)
class Where:
    where: Annotated[str, flag("--where", panel=RUNNING, help="Where.")] = "here"
    color: Annotated[str, flag("--hue/--no-hue", also="OTHER", panel=MODEL, help="Hue.")] = "red"
    secret: Annotated[str, flag("--secret", env=False, panel=MODEL, help="Secret.")] = "none"


def expanded(command: Callable[..., None]) -> list[str]:
    return list(inspect.signature(with_options(command)).parameters)


def test_a_dataclass_becomes_flags() -> None:
    found: list[object] = []

    @with_options
    def command(name: str, *, options: Annotated[Where, without("secret")]) -> None:
        found.append((name, options))

    command(name="x", where="there", color="blue")
    assert found == [("x", Where("there", "blue", "none"))]
    # In the order of panels: Model before Running.
    assert list(inspect.signature(command).parameters) == ["name", "color", "where"]
    declared = inspect.signature(command).parameters["color"].annotation.__metadata__[0]
    assert (declared.envvar, declared.show_envvar) == (["LLMCLI_HUE", "OTHER"], False)


def test_only_the_chosen_fields_have_flags() -> None:
    def command(*, options: Annotated[Where, only("where")]) -> None: ...

    def all_of_them(*, options: Where) -> None: ...

    assert expanded(command) == ["where"]
    assert sorted(expanded(all_of_them)) == ["color", "secret", "where"]
    assert inspect.signature(with_options(all_of_them)).parameters["secret"].annotation.__metadata__[0].envvar is None
