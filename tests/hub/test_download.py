from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmcli.checkpoint.files.model_files import gguf_sets
from llmcli.errors import LlmcliError, ModelNotFoundError
from llmcli.hub import cache as hub_cache
from llmcli.hub.cache import cached_model, cached_models, remove_cached
from llmcli.hub.download import fetch_model
from llmcli.hub.errors import plain_errors
from llmcli.hub.repo_files import HubName, choose_gguf, parse_hub_name
from llmcli.hub.store import no_progress
from tests.support.hub.fake_hub import CONFIG, FakeHub, commit_of, running_hub, sharded_repo

TOKEN = "hf_canaryCanaryCanary0123456789"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    no_waiting = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(file_download, "time", no_waiting)
        monkeypatch.setattr(_http, "time", no_waiting)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def fails(name: str) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        fetch_model(name)
    text = str(caught.value)
    assert TOKEN not in text and "canary" not in text.lower()
    assert text.endswith(".") and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("owner/name", HubName("owner/name")),
        ("Qwen/Qwen2.5-0.5B", HubName("Qwen/Qwen2.5-0.5B")),
        ("o/n:Q4_K_M", HubName("o/n", "Q4_K_M")),
        ("o/n@refs/pr/1", HubName("o/n", None, "refs/pr/1")),
        ("o/n:q8_0@main", HubName("o/n", "q8_0", "main")),
        *(
            (bad, None)
            for bad in ["name", "a/b/c", "../b", "a/..", "a--b/c", "o/n@../x", "o/n:", "o/\x1bn", "o/n\n", ""]
        ),
    ],
)
def test_hub_names_are_parsed(text: str, expected: HubName | None) -> None:
    assert parse_hub_name(text) == expected
    if expected is not None:
        assert str(expected) == text


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("F16", "m-F16.gguf"),
        ("bf16", "big/m-BF16-00001-of-00002.gguf"),
        ("m-UD-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"),
        ("Q4_0", "m-Q4_0.gguf"),
        ("IQ2", "m-IQ2_M.gguf"),
    ],
)
def test_a_quantization_selects_a_gguf_file(quant: str | None, file: str) -> None:
    names = [f"m-{q}.gguf" for q in ("F16", "IQ2_M", "Q4_0", "Q4_0_4_4", "Q4_K_M", "UD-Q4_K_M", "Q4_K_S", "Q8_0")]
    names += ["big/m-BF16-00001-of-00002.gguf", "big/m-BF16-00002-of-00002.gguf", "mmproj-m-F16.gguf"]
    names += ["half-Q6_K-00001-of-00002.gguf"]
    assert choose_gguf(gguf_sets(names), HubName("o/n", quant))[0] == file
    with pytest.raises(ModelNotFoundError, match=r"o/n:Q4_K_M.*o/n:Q4_K_S"):
        choose_gguf(gguf_sets(names), HubName("o/n", "Q4_K"))
    with pytest.raises(ModelNotFoundError, match="no GGUF file matching 'Q6_K'"):
        choose_gguf(gguf_sets(names), HubName("o/n", "Q6_K"))


def test_a_pull_fetches_only_needed_files_and_only_once(hub: FakeHub) -> None:
    hub.repos["o/n"] = sharded_repo()
    reports: list[tuple[str, int, int | None]] = []
    folder = fetch_model("o/n", lambda *report: reports.append(report))
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    small = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"}
    assert {path.name for path in folder.iterdir()} == shards | small
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == b"2" * 6000
    assert ("fetching o/n", 11000, 11000) in reports
    assert all(total is None or 0 <= done <= total for _, done, total in reports)
    assert cached_model("o/n") == folder == cached_model(f"o/n@{folder.name}")
    before = len(hub.fetched())
    assert fetch_model("o/n") == folder
    assert len(hub.fetched()) == before == 6


def test_the_token_is_sent_to_the_hub_only(hub: FakeHub) -> None:
    hub.repos["o/n"] = sharded_repo()
    fetch_model("o/n")
    # Only requests about repositories: the library makes another one once per process.
    to_the_hub = [headers for _, path, headers in hub.requests if path.startswith(("/api/models/", "/o/n/"))]
    elsewhere = [headers for _, path, headers in hub.requests if path.startswith("/cdn/")]
    assert to_the_hub and all(headers["authorization"] == f"Bearer {TOKEN}" for headers in to_the_hub)
    assert elsewhere and not any(TOKEN in str(headers) for headers in elsewhere)


@pytest.mark.parametrize(
    ("part", "status", "code", "words"),
    [
        ("/api/", 404, "RepoNotFound", ["no model o/n", "check the name"]),
        ("/api/", 404, "RevisionNotFound", ["no revision 'main'"]),
        ("/api/", 403, "GatedRepo", ["gated", "hf auth login", "HF_TOKEN"]),
        ("/api/", 401, "", ["HTTP 401", "hf auth login"]),
        ("/api/", 403, "", ["HTTP 403", "HF_TOKEN"]),
        ("/api/", 404, "", ["HTTP 404"]),
        ("/api/", 429, "", ["too many requests"]),
        ("/api/", 500, "", ["HTTP 500", "later"]),
        ("/resolve/", 403, "GatedRepo", ["gated"]),
        ("/resolve/", 401, "", ["HTTP 401"]),
        ("/resolve/", 503, "", ["HTTP 503"]),
        ("/cdn/", 403, "", ["HTTP 403"]),
        ("/cdn/", 500, "", ["HTTP 500"]),
    ],
)
def test_each_refusal_of_the_hub_has_its_message(
    hub: FakeHub, part: str, status: int, code: str, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repos["o/n"] = sharded_repo()
    hub.answers[part] = (status, code)
    text = fails("o/n")
    assert all(word in text for word in words), text
    assert cached_model("o/n") is None
    assert capfd.readouterr() == ("", "")


def test_an_unreachable_hub_is_reported(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:{port}")
    assert "cannot be reached" in fails("o/n")


def test_a_hub_that_times_out_is_reported(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "did not answer in time" in fails("o/n")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"x"}, "holds no safetensors, GGUF"),
        ({"config.json": CONFIG, "model.safetensors": b"x"}, "not a tokenizer"),
        ({"tokenizer.json": b"{}", "model.safetensors": b"x"}, "not a config.json"),
        ({"m-Q2_K.gguf": b"x", "m-Q3_K.gguf": b"y"}, "o/n:Q2_K, o/n:Q3_K"),
        (
            {
                "config.json": CONFIG,
                "tokenizer.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors", "b": "m.safetensors"}}',
                "m.safetensors": b"1",
            },
            "lacks 1 of 2 weight files, such as 'gone.safetensors'.",
        ),
    ],
)
def test_repositories_without_a_model_are_refused(hub: FakeHub, files: dict[str, bytes], words: str) -> None:
    hub.repos["o/n"] = files
    assert words in fails("o/n")
    assert not any("safetensors" in name for name in hub.fetched() if not name.endswith(".json"))


@pytest.mark.parametrize(
    "name", ["../../evil.gguf", "/evil.gguf", "a//evil.gguf", "..\\evil.gguf", "C:evil.gguf", "\x1b[2Jevil.gguf"]
)
def test_hostile_file_names_are_not_requested(hub: FakeHub, name: str) -> None:
    hub.repos["o/g"] = {name: b"GGUF"}
    assert "cannot run it" in fails("o/g")
    assert hub.fetched() == []
    hub.repos["o/g"]["good/m.gguf"] = b"GGUF"
    assert fetch_model("o/g").name == "m.gguf"


def test_messages_of_unknown_errors_hide_secrets() -> None:
    secret = f"at https://me:pass@cdn.example/x?X-Amz-Signature=abc with Bearer {TOKEN} \x1b[2J and {TOKEN}\nmore"
    with pytest.raises(ModelNotFoundError) as caught, plain_errors(HubName("o/n")):
        raise RuntimeError(secret)
    assert str(caught.value) == "o/n could not be fetched from the hub: at https://cdn.example/x with ***  [2J and ***."


@pytest.mark.parametrize("index", [b"[]", b"{", b'{"weight_map": {"a": "../x"}}', b'{"weight_map": {"a": 1}}', b"\xff"])
def test_damaged_indexes_are_refused(hub: FakeHub, index: bytes) -> None:
    hub.repos["o/n"] = sharded_repo() | {"model.safetensors.index.json": index}
    assert "model.safetensors.index.json " in fails("o/n")
    assert cached_model("o/n") is None


def test_a_split_gguf_model_is_fetched_and_removed_completely(hub: FakeHub) -> None:
    parts = {f"m-Q8_0-0000{i}-of-00002.gguf": bytes([i]) * 3000 for i in (1, 2)}
    hub.repos["o/g"] = {"config.json": CONFIG, "m-Q4_K_M.gguf": b"q" * 2000, **parts}
    first = fetch_model("o/g:q8_0")
    assert first.name == "m-Q8_0-00001-of-00002.gguf"
    assert {path.name for path in first.parent.iterdir()} == set(parts)
    assert cached_model("o/g:Q8_0") == first
    assert cached_model("o/g:Q4_K_M") is None
    assert fetch_model("o/g").name == "m-Q4_K_M.gguf"
    assert {model.name: model.bytes for model in cached_models()} == {"o/g:Q4_K_M": 2000, "o/g:Q8_0": 6000}
    assert remove_cached(HubName("o/g", "Q8_0")) == 6000
    assert [model.name for model in cached_models()] == ["o/g"]


@pytest.mark.parametrize("fault", ["cut", "wrong"])
def test_a_bad_transfer_is_detected_and_repaired_by_the_next_pull(hub: FakeHub, fault: str) -> None:
    hub.repos["o/n"] = sharded_repo()
    getattr(hub, fault).add("model-00002-of-00002.safetensors")
    text = fails("o/n")
    assert ("broke off" if fault == "cut" else "damaged") in text
    assert cached_model("o/n") is None and cached_models() == []
    getattr(hub, fault).clear()
    hub.requests.clear()
    folder = fetch_model("o/n")
    assert hub.fetched() == ["model-00002-of-00002.safetensors"]
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == b"2" * 6000


def test_missing_disk_space_is_reported_before_fetching(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["o/n"] = sharded_repo() | {"model-00001-of-00002.safetensors": b"1" * 20_000_000}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    assert "needs 19 MiB" in (text := fails("o/n")) and "9.5 MiB are free" in text
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_a_disk_that_fills_up_is_reported(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    hub.repos["o/n"] = sharded_repo()
    monkeypatch.setattr(file_download, "http_get", full)
    assert "disk is full" in fails("o/n")


def test_an_update_keeps_the_old_commit_until_the_new_one_is_complete(hub: FakeHub) -> None:
    hub.repos["o/n"] = sharded_repo()
    old = fetch_model("o/n")
    hub.repos["o/n"] |= {"model-00001-of-00002.safetensors": b"new" * 2000}

    def interrupt(what: str, done: int, total: int | None) -> None:
        if threading.current_thread() is threading.main_thread() and total == 6000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_model("o/n", interrupt)
    assert cached_model("o/n") == old
    new = fetch_model("o/n")
    assert cached_model("o/n") == new != old


INDEX = b'{"weight_map": {"a": "model-00001-of-00003.safetensors"}}'
READY = {"config.json": CONFIG, "tokenizer.json": b"{}"}


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        ({"model.safetensors": b"w", "model.safetensors.index.json": INDEX}, {"model.safetensors"}),
        ({"pytorch_model.bin": b"w", "model.safetensors.index.json": INDEX}, {"pytorch_model.bin"}),
        (
            {"w-00001-of-00002.safetensors": b"1", "w-00002-of-00002.safetensors": b"2"},
            {"w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"},
        ),
    ],
)
def test_a_stale_index_does_not_stop_a_pull(hub: FakeHub, files: dict[str, bytes], weights: set[str]) -> None:
    hub.repos["o/n"] = READY | files
    folder = fetch_model("o/n")
    assert {path.name for path in folder.iterdir()} - {"model.safetensors.index.json"} == weights | set(READY)
    assert cached_model("o/n") == folder and [model.path for model in cached_models()] == [folder]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config.json": b'{"model_type": "rwkv7"}'}, "type 'rwkv7'"),
        ({"config.json": b'{"model_type'}, "not valid JSON"),
        ({"tokenizer.json": None, "spiece.model": b"x"}, "not a tokenizer"),
        ({"tokenizer.json": None, "tokenizer.model.v3": b"x"}, "not a tokenizer"),
        ({"tokenizer.json": None, "vocab.json": b"{}"}, "not a tokenizer"),
        ({"tokenizer.json": None, "vocab.json": b"{}", "merges.txt": b""}, "names the tokenizer_class"),
        (
            {
                "tokenizer.json": None,
                "vocab.json": b"{}",
                "merges.txt": b"",
                "tokenizer_config.json": b'{"tokenizer_class": "RobertaTokenizer"}',
            },
            "tokenizer class 'RobertaTokenizer'",
        ),
    ],
)
def test_unsupported_models_are_neither_fetched_nor_listed(
    hub: FakeHub, changes: dict[str, bytes | None], words: str, tmp_path: Path
) -> None:
    whole = {**READY, "model.safetensors": b"w" * 2000} | changes
    files = {name: data for name, data in whole.items() if data is not None}
    hub.repos["o/n"] = files
    with pytest.raises(LlmcliError) as caught:
        fetch_model("o/n")
    assert words in str(caught.value)
    assert "model.safetensors" not in hub.fetched()
    # As if another program had fetched it.
    snapshot = tmp_path / "hub" / "models--o--n" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir(exist_ok=True)
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    assert cached_models() == [] and cached_model("o/n") is None
    (snapshot / "config.json").write_bytes(CONFIG)
    (snapshot / "tokenizer.json").write_bytes(b"{}")
    assert cached_model("o/n") == snapshot


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize(
    "value",
    ["../../../../escape", "/tmp/escape", "..", "a/b", "a\\b", '"../x"', 'W/"../x"', ".hidden", "x" * 300, "a b"],
)
def test_header_names_that_lead_out_of_the_cache_are_refused(
    hub: FakeHub, header: str, value: str, tmp_path: Path
) -> None:
    hub.repos["o/n"] = sharded_repo()
    hub.headers[header] = value
    assert "could lead outside the cache" in fails("o/n")
    outside = {path.name for path in tmp_path.iterdir()} | {path.name for path in (tmp_path / "hub").glob("*")}
    assert outside <= {"hub", "models--o--n", ".locks", "CACHEDIR.TAG"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "CACHEDIR.TAG"]
    hub.headers.clear()
    assert cached_model("o/n") is None
    assert fetch_model("o/n") == cached_model("o/n")


@pytest.mark.parametrize("value", ['"5d41402abc4b2a76b9719d911017c592-3"', 'W/"Ab_c.d+e="'])
def test_other_identifiers_of_mirrors_are_accepted(hub: FakeHub, value: str) -> None:
    hub.repos["o/g"] = {"m.gguf": b"GGUF"}
    hub.headers["ETag"] = value
    assert fetch_model("o/g").read_bytes() == b"GGUF"


@pytest.mark.parametrize(
    "listing",
    [
        b"<!DOCTYPE html><html>log in</html>",
        b"",
        b'{"id": "o/n", "sha": "0123',
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b"{}",
        b'{"id": "o/n"}',
        b'{"id": "o/n", "error": "none"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_responses_of_other_servers_are_refused(hub: FakeHub, listing: bytes) -> None:
    hub.repos["o/n"] = sharded_repo()
    hub.listing = listing
    assert "page of a proxy or a login" in fails("o/n")


@pytest.mark.parametrize(
    "changes",
    [
        {"sha": None},
        {"sha": 5},
        {"sha": "../../x"},
        {"sha": "main"},
        {"siblings": {"a": 1}},
        {"siblings": "text"},
        {"siblings": 5},
        {"siblings": [5]},
        {"siblings": [{}]},
        {"sibling": {"rfilename": 5}},
        {"sibling": {"rfilename": None}},
        {"sibling": {"size": "5000"}},
        {"sibling": {"size": -1}},
        {"sibling": {"size": 1.5}},
        {"sibling": {"size": True}},
        {"sibling": {"blobId": ["x"]}},
        {"sibling": {"blobId": "../x", "lfs": None}},
        {"sibling": {"lfs": "yes"}},
        {"sibling": {"lfs": {"sha256": 5, "size": 1, "pointerSize": 1}}},
        {"sibling": {"lfs": {"sha256": "../" * 20, "size": 1, "pointerSize": 1}}},
        {"lastModified": 5},
    ],
)
def test_invalid_fields_of_a_listing_are_refused(hub: FakeHub, changes: dict[str, object]) -> None:
    hub.repos["o/n"] = sharded_repo()
    hub.changes = changes
    assert "page of a proxy or a login" in fails("o/n")
    assert hub.fetched() == []


def test_a_file_with_another_size_than_listed_is_not_kept(hub: FakeHub) -> None:
    hub.repos["o/n"] = READY | {"model.safetensors": b"w"}
    hub.changes = {"sibling": {"size": 7}}
    assert "arrived damaged" in fails("o/n")
    hub.changes.clear()
    assert fetch_model("o/n") == cached_model("o/n")


def test_files_of_killed_pulls_are_removed_unless_locked(hub: FakeHub, tmp_path: Path) -> None:
    from filelock import FileLock

    hub.repos["o/n"] = sharded_repo()
    blobs = tmp_path / "hub" / "models--o--n" / "blobs"
    locks = tmp_path / "hub" / ".locks" / "models--o--n"
    for folder in (blobs, locks):
        folder.mkdir(parents=True)
    for name in ("aaaa.01234567.incomplete", "bbbb.incomplete", "cccc.89abcdef.incomplete"):
        (blobs / name).write_bytes(b"half")
    elsewhere = tmp_path / "hub" / "models--o--other" / "blobs" / "dddd.01234567.incomplete"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(b"half")
    with FileLock(locks / "cccc.lock"):
        fetch_model("o/n")
        assert [path.name for path in blobs.glob("*.incomplete")] == ["cccc.89abcdef.incomplete"]
    fetch_model("o/n")
    assert not list(blobs.glob("*.incomplete"))
    assert elsewhere.exists()


def test_revisions_are_separate_models(hub: FakeHub) -> None:
    hub.repos["o/n"] = sharded_repo()
    folder = fetch_model("o/n@v1")
    assert cached_model("o/n@v1") == folder and cached_model("o/n") is None
    assert [model.name for model in cached_models()] == ["o/n@v1"]
    assert "no revision 'v2'" in fails("o/n@v2")


def test_damaged_cache_entries_are_ignored(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["o/n"] = sharded_repo()
    folder = fetch_model("o/n")
    cache = tmp_path / "hub"
    for repo, ref in {"a": b"\xff\xfe", "b": b"../../..", "c": b"", "d": b"0" * 40}.items():
        (cache / f"models--x--{repo}" / "refs").mkdir(parents=True)
        (cache / f"models--x--{repo}" / "refs" / "main").write_bytes(ref)
    (cache / "models--x--file").write_bytes(b"")
    (cache / "models--x--y--z--").mkdir()
    assert [model.path for model in cached_models()] == [folder]
    assert all(cached_model(f"x/{repo}") is None for repo in "abcd")
    (folder / "model-00001-of-00002.safetensors").resolve().unlink()
    assert cached_models() == [] and cached_model("o/n") is None


def test_a_repository_is_removed_with_all_files(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["o/n"] = sharded_repo()
    fetch_model("o/n")
    assert remove_cached(HubName("o/n")) >= 11000
    assert cached_model("o/n") is None and not list((tmp_path / "hub").glob("models--*"))
    with pytest.raises(ModelNotFoundError):
        remove_cached(HubName("o/n"))


def test_blobs_that_another_revision_uses_survive_a_removal(hub: FakeHub) -> None:
    hub.repos["o/g"] = {"m.gguf": b"q" * 2000}
    fetch_model("o/g@v1")
    hub.repos["o/g"] |= {"README.md": b"new"}
    kept = fetch_model("o/g")
    assert remove_cached(HubName("o/g", "m", "v1")) == 0
    assert cached_model("o/g") == kept and kept.read_bytes() == b"q" * 2000


def test_offline_mode_opens_no_socket(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.repos["o/n"] = sharded_repo()
    folder = fetch_model("o/n")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def no_socket(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert cached_model("o/n") == folder
    assert [model.path for model in cached_models()] == [folder]
    assert "HF_HUB_OFFLINE" in fails("o/other")


def test_a_pull_completes_the_cache_of_an_interrupted_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["o/n"] = sharded_repo()
    hub.stall = threading.Event()
    script = "from llmcli.hub.download import fetch_model; print(fetch_model('o/n'))"
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", script]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not any("/cdn/" in path for _, path, _ in hub.requests) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=30)
    hub.stall.set()
    assert first.returncode != 0 and b"KeyboardInterrupt" in errors and TOKEN.encode() not in errors
    assert cached_model("o/n") is None
    assert not list((tmp_path / "hub").rglob("*.incomplete"))
    hub.stall = None
    hub.requests.clear()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert second.stdout.strip() == str(cached_model("o/n")) and second.stderr == ""
    assert hub.fetched() == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def test_the_library_log_settings_are_restored(hub: FakeHub) -> None:
    import huggingface_hub.utils

    utils: Any = huggingface_hub.utils
    hub.repos["o/n"] = sharded_repo()
    before = (utils.logging.get_verbosity(), utils.are_progress_bars_disabled())
    fetch_model("o/n", no_progress)
    fails("o/missing")
    assert (utils.logging.get_verbosity(), utils.are_progress_bars_disabled()) == before


def test_the_cache_holds_the_commit_of_the_hub(hub: FakeHub) -> None:
    hub.repos["o/n"] = sharded_repo()
    assert fetch_model("o/n").name == commit_of(hub.repos["o/n"])
    assert (hub_cache.repo_folder("o/n") / "refs" / "main").read_text() == commit_of(hub.repos["o/n"])
