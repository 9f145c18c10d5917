from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.hub import store


@pytest.fixture(autouse=True)
def own_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "llmcli" / "models"


def put(name: str, content: bytes = b"GGUF") -> Path:
    with store.working_folder(lambda: None) as folder:
        (folder / "x").write_bytes(content)
        return store.install(folder / "x", name)


def partial() -> list[str]:
    return sorted(path.name for path in (store.store_folder() / ".partial").iterdir())


def test_an_absent_store_is_empty() -> None:
    assert store.entries() == []
    assert store.find("a") is None
    assert not store.store_folder().exists()


def test_only_model_files_are_entries(own_data_folder: Path) -> None:
    put("b.gguf", b"12345")
    put("A.GGUF")
    (own_data_folder / "folder.gguf").mkdir()
    (own_data_folder / "notes.txt").write_text("x")
    (own_data_folder / "dangling.gguf").symlink_to("nowhere")
    assert [(entry.name, entry.bytes) for entry in store.entries()] == [("A.GGUF", 4), ("b.gguf", 5)]


@pytest.mark.parametrize("name", ["Model.Q4.gguf", "model.q4.GGUF", "MODEL.Q4"])
def test_names_match_in_any_case_but_only_as_a_whole(name: str) -> None:
    path = put("Model.Q4.gguf")
    entry = store.find(name)
    assert entry is not None and entry.path == path
    assert store.find("Model") is None and store.find("Model.*") is None
    assert store.remove(name).name == "Model.Q4.gguf"
    assert not path.exists()
    with pytest.raises(ModelNotFoundError):
        store.remove(name)


def test_a_working_folder_is_always_removed() -> None:
    put("a.gguf")
    assert partial() == ["lock"]
    with pytest.raises(KeyboardInterrupt), store.working_folder(lambda: None) as folder:
        (folder / "half").write_bytes(b"x")
        raise KeyboardInterrupt
    assert partial() == ["lock"]
    assert [entry.name for entry in store.entries()] == ["a.gguf"]


def test_installing_replaces_an_older_file() -> None:
    assert put("a.gguf", b"old").read_bytes() == b"old"
    assert put("a.gguf", b"new!").read_bytes() == b"new!"
    assert len(store.entries()) == 1


def test_files_of_a_killed_process_are_removed() -> None:
    script = (
        "import os\nfrom llmcli.hub import store\nwith store.working_folder(lambda: None) as folder:\n"
        " (folder / 'half').write_bytes(b'x' * 1000); os.kill(os.getpid(), 9)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert result.returncode == -9, result.stderr
    assert len(partial()) == 2
    with store.working_folder(lambda: None) as mine:
        assert partial() == sorted([mine.name, "lock"])
    assert partial() == ["lock"]


def test_on_a_file_system_without_locks_each_process_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    with store.working_folder(lambda: None) as mine:
        (mine / "half").write_bytes(b"x")
        assert put("a.gguf").read_bytes() == b"GGUF"
        assert partial() == [mine.name] and (mine / "half").exists()
    assert partial() == []


def test_one_process_waits_for_the_other() -> None:
    reports: list[str] = []
    order: list[str] = []

    def second() -> None:
        with store.working_folder(lambda: reports.append("waiting")):
            order.append("second")

    with store.working_folder(lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        while not reports:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert (reports, order) == (["waiting"], ["first", "second"])


def test_an_unwritable_store_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert store.entries() == []
    with (
        pytest.raises(LlmcliError, match=r"file/llmcli/models cannot be used.*XDG_DATA_HOME"),
        store.working_folder(lambda: None),
    ):
        pass
