"""Every flag, setting, slash command and exit code that the program declares has one entry in the pages.

An entry is a table row that begins with a code-quoted name. Other mentions are free.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from typing import Any
from unittest import mock

import typer

from llmcli import cli, errors
from llmcli.commands.chat.slash_commands import Commands
from llmcli.commands.inspect import COMMANDS as INSPECT_COMMANDS
from llmcli.commands.shared.options.flags import OTHER_SPELLINGS
from llmcli.docs import pages
from tests.support.manual import ROOT, entries
from tests.support.terminal.cli import llm


def all_names() -> list[tuple[str, str]]:
    """The names of all entries, without their arguments, each with its page."""
    return [
        (code.split()[0], topic) for topic in pages.TOPICS for entry in entries(pages.page(topic)) for code in entry
    ]


@cache
def options() -> dict[str, set[str]]:
    """Every option that `--help` lists, by its first long name, with all its spellings, also those not listed."""
    found: dict[str, set[str]] = {}

    def collect(command: Any) -> None:
        for inner in getattr(command, "commands", {}).values():
            if not inner.hidden:
                collect(inner)
        # Of the program itself, only what its commands have too.
        for parameter in [] if command.name == "llm" else command.params:
            if parameter.param_type_name == "option" and not parameter.hidden and parameter.name != "help":
                name = next(option for option in parameter.opts if option.startswith("--"))
                unlisted = [spelling for spelling, main in OTHER_SPELLINGS.items() if main == name]
                found.setdefault(name, set()).update(parameter.opts, parameter.secondary_opts, unlisted)

    collect(typer.main.get_command(cli.app))
    return found


def test_every_flag_has_one_entry() -> None:
    counts = Counter(name for name, _ in all_names() if name.startswith("-") and not re.fullmatch(r"-\w+", name))
    declared = set().union(*options().values())
    assert set(counts) == {name for name in declared if name.startswith("--")}
    assert not [name for name, count in counts.items() if count > 1]


def test_an_entry_has_all_spellings_of_its_flag() -> None:
    assert len(options()) > 90
    rows = [[code.split()[0] for code in entry] for topic in pages.TOPICS for entry in entries(pages.page(topic))]
    for name, spellings in options().items():
        row = next(row for row in rows if name in row)
        # A name can be one command's flag and another's second spelling of some other flag.
        assert spellings <= {*row, *set().union(*(options().get(other, set()) for other in row))}, name
        assert spellings - set(row) == set() or name == "--template", name


def test_the_longest_help_stays_below_190_lines_on_80_columns() -> None:
    shown = llm("generate", "-h", env={"COLUMNS": "80"}).stdout.decode().splitlines()
    assert "--logit-bias" in "".join(shown) and max(map(len, shown)) == 80
    assert len(shown) < 190


COMMANDS_THAT_RUN_A_MODEL = {
    *("generate", "chat", "batch", "score", "compare", "trace", "replay", "bench", "edit fact"),
    *(f"inspect {name}" for name in INSPECT_COMMANDS),
}


def test_every_option_of_a_command_that_runs_a_model_is_in_a_panel() -> None:
    checked = set()

    def check(command: Any, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path} {name}".strip())
        if path in COMMANDS_THAT_RUN_A_MODEL:
            checked.add(path)
            options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
            assert [one.name for one in options if one.rich_help_panel is None] == [], path

    check(typer.main.get_command(cli.app), "")
    assert checked == COMMANDS_THAT_RUN_A_MODEL


def test_every_slash_command_has_one_entry() -> None:
    with mock.patch("llmcli.commands.chat.slash_commands.ChatSession"):
        declared = set(Commands(mock.MagicMock()).table)
    found = Counter(name.removeprefix("/") for name, _ in all_names() if re.fullmatch(r"/[a-z]+", name))
    assert found == Counter(declared)


def test_every_exit_code_has_one_entry() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LlmcliError)]
    declared = {kind.exit_code for kind in kinds} | {0, cli.INTERRUPTED, cli.CLOSED_PIPE, cli.TERMINATED, 128 + 1}
    found = Counter(int(name) for name, _ in all_names() if name.isdigit())
    assert found == Counter(declared)


def test_errors_name_topics_that_exist() -> None:
    named = [
        topic
        for path in (ROOT / "llmcli").rglob("*.py")
        for topic in re.findall(r"[Ss]ee llm help ([a-z-]+)", path.read_text())
    ]
    assert len(named) > 5
    assert set(named) <= set(pages.TOPICS)


def test_every_environment_variable_has_an_entry_or_a_flag() -> None:
    read = set()
    for path in (ROOT / "llmcli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.update({node.value} & {"NO_COLOR", "NO_PAGER", "PAGER", "VISUAL", "EDITOR"})
                read.update({node.value} if re.fullmatch(r"LLMCLI_[A-Z_]*[A-Z]", node.value) else ())
    names = set().union(*options().values())
    flags = {"LLMCLI_" + name.removeprefix("--").upper().replace("-", "_") for name in names}
    found = Counter(name for name, _ in all_names() if re.fullmatch(r"[A-Z_]{5,}", name))
    assert len(found) > 5
    assert found == Counter(read - flags)
