"""The folder in which clients find running servers."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmcli.errors import LlmcliError
from llmcli.server import registry
from llmcli.server.registry import Identity, Registration, ServerState, file_marks, model_files, running_servers


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory() as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        yield Path(runtime) / "llmcli"


def state(registration: Registration, started: float = 1.5) -> ServerState:
    identity = Identity("1", (("/m", 1, 2),), edits=(("/e", 3, 4),))
    return ServerState(registration.name, os.getpid(), started, "m", identity, str(registration.socket), "cpu", 9)


def test_a_server_is_found_while_it_holds_its_lock(folder: Path) -> None:
    first, second = Registration("owner/my model"), Registration("owner/my model")
    assert [first.name, second.name] == ["owner-my-model", "owner-my-model-2"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert running_servers() == []
    first.publish(state(first))
    second.publish(state(second, 2.5))
    assert running_servers() == [state(second, 2.5), state(first)]
    second.withdraw()
    assert running_servers() == [state(first)]
    first.close()
    second.close()
    assert list(folder.iterdir()) == []


def test_files_of_a_killed_server_are_ignored_and_replaced() -> None:
    killed = Registration("m")
    killed.socket.touch()
    killed.publish(state(killed))
    os.close(killed._lock)
    assert running_servers() == []
    again = Registration("m")
    assert again.name == "m" and not again.socket.exists()
    again.publish(state(again))
    assert running_servers() == [state(again)]
    again.close()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": {"files": [[1]]}}'])
def test_a_damaged_state_file_is_no_server(folder: Path, text: str) -> None:
    server = Registration("m")
    server.publish(state(server))
    (folder / "m.json").write_text(text)
    assert running_servers() == []
    server.close()


def test_a_folder_that_others_can_read_is_closed_to_them(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    Registration("m").close()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_or_a_path_that_is_too_long_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LlmcliError, match="not a folder of this user"):
        Registration("m")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 120)))
    with pytest.raises(LlmcliError, match="XDG_RUNTIME_DIR"):
        Registration("m")


def test_a_server_holds_only_the_same_model() -> None:
    server = Registration("m")
    same = Identity("1", (("/m", 1, 2),), edits=(("/e", 3, 4),))
    assert state(server).holds(same)
    assert not state(server).holds(Identity("1", (("/m", 1, 3),), edits=(("/e", 3, 4),)))
    assert not state(server).holds(Identity("1", (("/m", 1, 2),), "cuda", edits=(("/e", 3, 4),)))
    # A request can ask for a smaller context than the server has.
    assert state(server).holds(replace(same, context=50))
    limited = replace(state(server), identity=replace(same, context=50))
    assert [limited.holds(replace(same, context=wanted)) for wanted in (None, 51, 50, 2)] == [False, False, True, True]
    server.close()


def test_the_files_of_a_model_are_those_of_its_folder_or_all_its_shards(tmp_path: Path) -> None:
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other.gguf", ".hidden"]
    for name in names:
        (tmp_path / name).write_text(name)
    assert [file.name for file in model_files(tmp_path / names[0])] == names[:2]
    assert model_files(tmp_path / names[2]) == [tmp_path / names[2]]
    assert {file.name for file in model_files(tmp_path) if file.suffix} == set(names[:3])
    before = file_marks([tmp_path / names[2]])
    (tmp_path / names[2]).write_text("changed")
    assert file_marks([tmp_path / names[2]]) != before


def test_a_socket_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Registration("m")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(server.socket))
        listening.listen()
        registry.connect(state(server), 1.0).close()
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(LlmcliError, match="belongs to the user"):
            registry.connect(state(server), 1.0)
    server.close()
