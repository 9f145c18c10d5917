"""With a running server, `llm compare` writes what it would write without one, and leaves the server's model to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import llmcli
from llmcli.client.compared import ServedComparison
from llmcli.client.find import WantedModel, identity_of
from llmcli.errors import LlmcliError
from llmcli.inspection.evaluation.comparison_side import GreedyContinuation, LocalComparison, Tell
from llmcli.inspection.evaluation.model_diff import compare
from llmcli.server.wire import ContinuedText
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.server import TestServer, serving
from tests.support.terminal.cli import Result, llm


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("1") / "held", "llama", max_position_embeddings=64)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("2") / "other", "qwen2", max_position_embeddings=128)


@pytest.fixture(scope="module")
def server(held: Path) -> Iterator[TestServer]:
    identity = identity_of(WantedModel(str(held)))
    assert identity is not None
    with serving(llmcli.load(held), None, identity) as server:
        yield server


def both(*arguments: object, where: str = "auto") -> tuple[Result, Result]:
    """A run that can use the server, and one that cannot."""
    runs = [llm("compare", *arguments, "-n", 5, "--server", each) for each in (where, "off")]
    return runs[0], runs[1]


def same(*arguments: object, code: int = 0, where: str = "auto") -> None:
    warm, cold = both(*arguments, where=where)
    assert (warm.returncode, warm.stdout, warm.stderr) == (code, cold.stdout, cold.stderr)
    assert cold.returncode == code and (code or warm.stdout)


@pytest.mark.parametrize(
    ("arguments", "requests"),
    [
        (["{held}", "{other}", "the cat sat on the mat", "--json"], 2),
        (["{other}", "{held}", "the cat sat on the mat"], 2),
        (["{held}", "{held}", "the cat sat", "--json"], 4),
        (["{held}", "{held}", "the cat sat", "--dtype-b", "float16", "--json"], 2),
        (["{other}", "{held}", "-p", "Hi", "--json"], 2),
        (["{held}", "{other}", "-p", "Hi"], 2),
        (["{held}", "{other}", "the cat", "--chat", "--json"], 2),
        # Longer than the contexts: it is read in windows.
        (["{other}", "{held}", "the cat sat on the mat " * 9, "--json"], 2),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_output_is_the_same(server: TestServer, held: Path, other: Path, arguments: list[str], requests: int) -> None:
    before = server.server.service.requests
    same(*(argument.format(held=held, other=other) for argument in arguments))
    assert server.server.service.requests - before == requests


def test_errors_are_the_same(server: TestServer, held: Path, other: Path, tmp_path: Path) -> None:
    same(held, other, "", code=2)
    same(held, "/nowhere", "abc", code=3)
    changed = Path(shutil.copytree(other, tmp_path / "changed"))
    (changed / "tokenizer.json").write_text((other / "tokenizer.json").read_text().replace("<|user|>", "<|human|>"))
    same(held, changed, "abc", code=2)
    same(changed, held, "abc", code=2)
    assert b"token 258 is" in both(changed, held, "abc")[0].stderr


def test_a_server_at_an_address_must_hold_one_of_them(server: TestServer, held: Path, other: Path) -> None:
    for where in (server.url, f"unix:{server.state.socket}"):
        before = server.server.service.requests
        same(held, other, "the cat sat", "--json", where=where)
        assert server.server.service.requests - before == 2
    for arguments, words in (
        ([other, other, "abc"], "holds held, which is none of the given models"),
        ([held, held, "abc", "--dtype-a", "float16", "--dtype-b", "float32"], "which is none of the given models"),
        ([held, other, "abc", "--readable"], "--readable loads the model in this process"),
    ):
        found = llm("compare", *arguments, "--server", server.url)
        assert found.returncode == 2 and words in " ".join(found.stderr.decode().split())


def test_two_models_that_a_named_server_could_hold_are_refused(server: TestServer, held: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(held, tmp_path / "held")
    found = llm("compare", held, copy, "abc", "--server", server.url)
    assert found.returncode == 2 and b"Both models have the name" in found.stderr
    before = server.server.service.requests
    same(held, copy, "abc", "--json")
    assert server.server.service.requests - before == 2


def test_the_readable_model_is_loaded_here(server: TestServer, held: Path, other: Path) -> None:
    before = server.server.service.requests
    same(held, other, "the cat sat", "--readable", "--json")
    assert server.server.service.requests == before


def test_a_server_that_is_gone_is_replaced_by_this_process(server: TestServer, held: Path, other: Path) -> None:
    service = server.server.service
    service.ready, ready = None, service.ready
    try:
        warm = llm("compare", held, other, "the cat", "-n", 3, "--json")
    finally:
        service.ready = ready
    assert warm.stdout == llm("compare", held, other, "the cat", "-n", 3, "--json", "--server", "off").stdout
    assert warm.stderr == b"The model is being loaded. The model is loaded in this process.\n"


def test_a_server_that_ends_between_both_requests_is_replaced(server: TestServer, held: Path) -> None:
    loaded, service, told = llmcli.load(held), server.server.service, list[str]()

    def local() -> LocalComparison:
        return LocalComparison(loaded, lambda model: model.tokenizer.encode("the cat"))

    class Ending(ServedComparison):
        def write(self, tell: Tell) -> GreedyContinuation:
            written = super().write(tell)
            service.ready = None
            return written

    ready = service.ready
    served = Ending(server.state, ContinuedText("the cat"), local, told.append)
    try:
        result = compare(lambda: served, local, reply=False, max_tokens=3)
    finally:
        service.ready = ready
    assert told == ["The model is being loaded. The model is loaded in this process."]
    assert result == compare(local, local, reply=False, max_tokens=3)


def test_a_server_that_ends_in_the_middle_is_an_error(server: TestServer, held: Path) -> None:
    model = ServedComparison(server.state, ContinuedText("the cat"), mock.Mock(), lambda line: None)
    rows = model.read(random_ids(40), start=1, window=None, tell=lambda done, total: None)
    next(rows)
    cut = mock.patch("llmcli.client.connection.ServerAnswer.data", return_value=b"1")
    with cut, pytest.raises(LlmcliError, match=r"ended during its answer\. Run the command again"):
        next(rows)


def test_ids_that_are_no_tokens_are_refused(server: TestServer) -> None:
    begin = {"ids": [5, 10**6], "max_tokens": 3}
    answer = server.ask("POST", "/internal/continuation", begin, private=True)
    assert answer.status == 400 and "no token of held" in answer.json["error"]["message"]
    answer = server.ask("POST", "/internal/predictions", {"ids": [5, 10**6], "start": 1}, private=True)
    assert "no token of held" in answer.body.decode() and answer.body.count(b"\n") == 1
    for wrong in ({"ids": 5, "start": 1}, {"ids": [1]}, {"ids": [1, 2], "start": "1"}, {"ids": [1, 2], "more": 1}):
        answer = server.ask("POST", "/internal/predictions", wrong, private=True)
        assert answer.status == 400 and "malformed" in answer.json["error"]["message"], wrong
