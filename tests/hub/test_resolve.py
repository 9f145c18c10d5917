from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmcli.errors import ModelNotFoundError, UsageError
from llmcli.hub import cache, resolve, starter, store
from tests.support.hub.fake_hub import CONFIG
from tests.support.hub.fake_index import CONTENT, use_fake_index

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    use_fake_index(monkeypatch, tmp_path / "index")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def put_into_store(name: str, content: bytes = b"GGUF") -> Path:
    with store.working_folder(lambda: None) as folder:
        (folder / "x").write_bytes(content)
        return store.install(folder / "x", name)


def put_into_cache(repo: str) -> Path:
    folder = cache.repo_folder(repo)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_bytes(CONFIG)
    return snapshot


def test_no_name_means_the_starter_model() -> None:
    with pytest.raises(ModelNotFoundError, match="llm pull starter"):
        resolve.resolve(None, fetch=False)
    reports: list[str] = []
    path = resolve.resolve(None, progress=lambda what, done, total: reports.append(what))
    assert path == starter.starter_path() and reports
    for name in (None, "starter", "SMOLLM2", starter.STARTER.file_name):
        assert resolve.resolve(name, fetch=False) == path


def test_paths_have_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_into_store("starter.gguf")
    put_into_cache("owner/name")
    for folder in ("starter", "owner/name", "x.gguf"):
        Path(folder).mkdir(parents=True)
        assert resolve.resolve(folder) == Path(folder)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "m.gguf").write_bytes(b"GGUF")
    assert resolve.resolve("~/m.gguf") == tmp_path / "home" / "m.gguf"
    assert resolve.resolve(f"{tmp_path}/home/m.gguf") == tmp_path / "home" / "m.gguf"


def test_a_model_file_means_its_folder_and_gguf_is_recognized_by_content() -> None:
    Path("m").mkdir()
    for name in ("config.json", "model.safetensors"):
        Path("m", name).write_bytes(b"{}")
        assert resolve.resolve(f"m/{name}") == Path("m")
    Path("m", "sha256-abc").write_bytes(b"GGUF\x03")
    assert resolve.resolve("m/sha256-abc") == Path("m/sha256-abc")
    Path("m", "README.md").write_bytes(b"text")
    with pytest.raises(ModelNotFoundError, match="is not a model"):
        resolve.resolve("m/README.md")


@pytest.mark.parametrize(
    "name",
    [
        "./no",
        "../no",
        "/no/where",
        "~/no",
        "~nobody-of-that-name/x",
        "no.gguf",
        "a/no.GGUF",
        "/" + "x" * 5000,
        "./a\0b",
    ],
)
def test_names_like_paths_are_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no file or folder"):
        resolve.resolve(name)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="empty"):
        resolve.resolve(name)


def test_pipes_and_devices_are_refused() -> None:
    os.mkfifo("pipe.gguf")
    for name in ("pipe.gguf", "/dev/null"):
        with pytest.raises(ModelNotFoundError, match="neither a file nor a folder"):
            resolve.resolve(name)


def test_models_in_store_and_cache_are_found_by_name() -> None:
    path = put_into_store("My-Model.Q8_0.gguf")
    snapshot = put_into_cache("owner/name")
    assert resolve.resolve("my-model.q8_0", fetch=False) == path
    assert resolve.resolve("My-Model.Q8_0.gguf") == path
    assert resolve.resolve("owner/name", fetch=False) == snapshot
    assert resolve.resolve("owner/name") == snapshot
    with pytest.raises(ModelNotFoundError, match="llm pull owner/other"):
        resolve.resolve("owner/other", fetch=False)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        resolve.resolve("owner/other")
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        resolve.pull("owner/name")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("startr", "did you mean starter"),
        ("my-model.q8", "did you mean My-Model.Q8_0"),
        ("ownr-name", "did you mean owner/name"),
        ("qqqq", r"No model is called 'qqqq' here\. `llm pull"),
        ("\x1b]0;x\x07", r"called '\\x1b\]0;x\\x07' here"),
    ],
)
def test_an_unknown_name_gets_suggestions(name: str, hint: str) -> None:
    put_into_store("My-Model.Q8_0.gguf")
    put_into_cache("owner/name")
    with pytest.raises(ModelNotFoundError, match=hint):
        resolve.resolve(name)


def test_local_models_resolve_by_their_names() -> None:
    put_into_store(starter.STARTER.file_name, CONTENT)
    put_into_store("b.gguf")
    put_into_cache("owner/name")
    models = resolve.local_models()
    assert [(model.name, model.place) for model in models] == [
        ("b", "store"),
        ("SmolLM2-135M-Instruct.Q4_1", "store"),
        ("owner/name", "hub cache"),
    ]
    assert all(resolve.resolve(model.name, fetch=False) == model.path for model in models)


@pytest.mark.parametrize("name", ["starter", "b", "owner/name"])
def test_removing_a_model_leaves_the_others(name: str) -> None:
    put_into_store(starter.STARTER.file_name, CONTENT)
    put_into_store("b.gguf")
    put_into_cache("owner/name")
    before = {model.name for model in resolve.local_models()}
    model = resolve.removable(name)
    resolve.remove(model)
    assert before - {other.name for other in resolve.local_models()} == {model.name}
    with pytest.raises(ModelNotFoundError):
        resolve.removable(name)


def test_a_users_own_files_are_never_removed() -> None:
    Path("mine.gguf").write_bytes(b"GGUF")
    Path("owner").mkdir()
    Path("owner/name").mkdir()
    for name in ("mine.gguf", "owner/name", "./mine.gguf", "."):
        with pytest.raises(UsageError, match="your own"):
            resolve.removable(name)
    with pytest.raises(ModelNotFoundError, match="No pulled model"):
        resolve.removable("qqqq")
