"""The console examples of the README and the pages give, on the starter, the output that they show."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from llmcli.docs import pages
from llmcli.hub.starter import fetch_starter, starter_path
from tests.support.manual import Example, examples
from tests.support.terminal.cli import llm

EXAMPLES = examples(run=True)
# Bars, curves and the lines of tables.
_DRAWN = re.compile(r"[▀-▟─-╿]+")
# What other examples need. Tests of one file may run in several processes, which do not see each other's directories.
_PREPARES = re.compile(r"llm (?:prompt save|alias set) ")
# What depends on the processor.
_KERNEL = re.compile(r"\((?:avx|neon|portable)[^)]*\)")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new user's directories, with the starter model in the store, and the files that examples read."""
    starter = starter_path() or fetch_starter()
    folder = tmp_path_factory.mktemp("home")
    models = folder / "data/llmcli/models"
    models.mkdir(parents=True)
    (models / starter.name).symlink_to(starter)
    (folder / "bin").mkdir()
    (folder / "bin/llm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmcli "$@"\n')
    (folder / "bin/llm").chmod(0o755)
    (folder / "bin/python3").symlink_to(sys.executable)
    schema = re.search(r"^```json\n(.*?)^```$", pages.page("structured-output"), flags=re.DOTALL | re.MULTILINE)
    assert schema is not None
    (folder / "person.json").write_text(schema[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(platformdirs.user_cache_path()))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        # A path that is longer than a line would be broken.
        patch.setenv("COLUMNS", "120")
        patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield folder


@functools.cache
def run(command: str) -> tuple[str, str]:
    """The output and the messages of a command; a plain `llm` is run in this process."""
    words = shlex.split(command)
    if words[0] == "llm" and not set("|<>;&$").intersection(re.sub(r"'[^']*'|\"[^\"]*\"", "", command)):
        result = llm(*words[1:])
        assert result.returncode == 0, result.stderr
        return result.stdout.decode(), result.stderr.decode()
    shell = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=300)
    return shell.stdout, shell.stderr


def words(output: str) -> list[str]:
    """The words of an output without what differs between machines and terminals: drawings, kernels, paths."""
    text = _DRAWN.sub(" ", _KERNEL.sub(" ", output))
    return [word for word in text.split() if not word.startswith("/")]


def is_like(shown: str, real: str) -> bool:
    """Whether two words are the same, or two numbers nearly: kernels for other processors round differently.

    A share of 24.3 % without bfloat16 instructions is 22.9 % with them.
    """
    if shown == real:
        return True
    numbers = [re.fullmatch(r"([<+-]?)([\d.]+)(\D*)", word) for word in (shown, real)]
    if None in numbers:
        return False
    (sign, value, unit), (real_sign, real_value, real_unit) = (number.groups() for number in numbers if number)
    close = abs(float(value) - float(real_value)) <= 0.07 * float(value) + 0.3
    return (sign, unit) == (real_sign, real_unit) and close


def shows(documented: str, real: str) -> bool:
    """Whether an example shows what a command writes."""
    shown, wrote = words(documented), words(real)
    return len(shown) == len(wrote) and all(map(is_like, shown, wrote))


@pytest.mark.starter
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.where}: {example.command[:50]}")
def test_an_example_gives_the_output_it_shows(example: Example) -> None:
    for earlier in EXAMPLES:
        if earlier.where == example.where and _PREPARES.match(earlier.command):
            run(earlier.command)
    out, messages = run(example.command)
    # An example may leave out what goes to stderr.
    assert shows(example.output, out) or shows(example.output, out + messages), out + messages


def test_most_examples_are_run() -> None:
    assert len(EXAMPLES) > len(examples(run=False))
    assert {example.where for example in EXAMPLES} > {"README", "usage", "inspect"}


def test_another_output_is_seen() -> None:
    assert shows("Paris 77.3%  ██▌\nruns by the C kernel (avx2)", "Paris 77.1%  ██▍ runs by the C kernel (avx512-vnni)")
    assert not shows("Paris 77.3%", "Paris 87.3%")
    assert not shows("Paris", "London")
    assert not shows("Paris.", "Paris. And")
