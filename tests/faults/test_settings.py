"""Invalid options, damaged, locked or missing settings and stores, and a hub that fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmcli.conversations.store import ConversationFile
from tests.support.faults.models import ESCAPE, config, sound_folder, weights
from tests.support.faults.run import check, fingerprint, run, run_forked
from tests.support.hub.fake_hub import FakeHub, running_hub

# A process for each case.
pytestmark = pytest.mark.slow

OPTIONS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "no such command": (["frobnicate"], 2, ("frobnicate",)),
    "no such option": (["generate", "--frob", "Hi"], 2, ("--frob",)),
    "an option that drives a terminal": (["generate", f"--{ESCAPE}", "Hi"], 2, ()),
    "no prompt": (["generate"], 2, ("prompt",)),
    "temperature below zero": (["generate", "-t", "-1", "Hi"], 2, ("temperature",)),
    "temperature of no number": (["generate", "-t", "nan", "Hi"], 2, ("temperature",)),
    "temperature is text": (["generate", "-t", "hot", "Hi"], 2, ("hot",)),
    "top-p above one": (["generate", "--top-p", "2", "Hi"], 2, ("top-p",)),
    "top-k below zero": (["generate", "--top-k", "-1", "Hi"], 2, ("top-k",)),
    "no tokens": (["generate", "-n", "-5", "Hi"], 2, ("max-tokens",)),
    "penalty of zero": (["generate", "--repeat-penalty", "0", "Hi"], 2, ("repeat-penalty",)),
    "typical-p of zero": (["generate", "--typical-p", "0", "Hi"], 2, ("typical-p",)),
    "XTC more often than always": (["generate", "--xtc-probability", "2", "Hi"], 2, ("xtc-probability",)),
    "a bias without a number": (["generate", "--logit-bias", f"a{ESCAPE}", "Hi"], 2, ("--logit-bias",)),
    "raw with a system prompt": (["generate", "--raw", "-s", "x", "Hi"], 2, ("--raw",)),
    "template argument without a value": (["generate", "--template-arg", "x", "Hi"], 2, ("template-arg",)),
    "no such prompt template": (["generate", "-T", "none", "Hi"], 2, ("'none'",)),
    "schema that is none": (["generate", "--json-schema", "{'", "Hi"], 2, ("chema",)),
    "expression that is none": (["generate", "--regex", "(", "Hi"], 2, ("egex",)),
    "one choice": (["generate", "--choices", "a", "Hi"], 2, ("choices",)),
    "record into nowhere": (["generate", "--record", "no/folder/file", "Hi"], 2, ("no/folder/file",)),
    "model without a name": (["generate", "-m", "", "Hi"], 3, ("name is empty",)),
    "no such path": (["generate", "-m", "./none", "Hi"], 3, ("'./none'",)),
    "a path that drives a terminal": (["generate", "-m", f"./{ESCAPE}", "Hi"], 3, ("owned",)),
    "a name of 5000 letters": (["show", "a" * 5000], 3, ("No model is called",)),
    "a file of no model": (["generate", "-m", "/etc/passwd", "Hi"], 3, ("'/etc/passwd' is not a model",)),
    "a device": (["generate", "-m", "/dev/zero", "Hi"], 3, ("neither a file nor a folder",)),
    "replay of no run": (["replay", "/etc/passwd"], 2, ("/etc/passwd",)),
    "batch of nothing": (["batch", "./none.jsonl"], 2, ("none.jsonl",)),
    "batch without end": (["batch", "/dev/zero"], 2, ("/dev/zero is larger than 256 MiB",)),
    "replay without end": (["replay", "/dev/zero"], 2, ("/dev/zero is larger than 256 MiB",)),
    "resume of nothing": (["chat", "--resume", "none"], 2, ("none",)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_invalid_options_end_with_a_message(name: str, tmp_path: Path) -> None:
    arguments, code, says = OPTIONS[name]
    check(run_forked(arguments, tmp_path), code, says)


def placed(place: str, content: bytes) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        path = home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return change


def folder_at(place: str) -> Callable[[Path], None]:
    return lambda home: (home / place).mkdir(parents=True)


def fifo_at(place: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(home / place)

    return change


def huge_at(place: str) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        placed(place, b"")(home)
        os.truncate(home / place, 1 << 40)

    return change


CONFIG, DATA = "XDG_CONFIG_HOME/llmcli", "XDG_DATA_HOME/llmcli"
BEGIN = b'{"kind": "begin", "id": "x", "time": "", "program": "llmcli", "version": 1}\n'
STORES: dict[str, tuple[Callable[[Path], None], list[str], int, tuple[str, ...]]] = {
    "settings are no TOML": (placed(f"{CONFIG}/config.toml", b"a = [\x1b"), ["list"], 2, ("config.toml",)),
    "settings are no text": (placed(f"{CONFIG}/config.toml", b'a = "\xe9"'), ["list"], 2, ("config.toml",)),
    "settings name nothing": (placed(f"{CONFIG}/config.toml", b"a\x1b = 1"), ["list"], 2, ("config.toml",)),
    "setting of a wrong kind": (
        placed(f"{CONFIG}/config.toml", b'temperature = "hot"'),
        ["generate", "Hi", "-m", "./none"],
        2,
        ("hot",),
    ),
    "aliases are no JSON": (placed(f"{CONFIG}/aliases.json", b"{'"), ["show", "a"], 2, ("aliases.json",)),
    "aliases are nested deeply": (placed(f"{CONFIG}/aliases.json", b"[" * 90_000), ["show", "a"], 2, ("aliases.json",)),
    "alias of itself": (placed(f"{CONFIG}/aliases.json", b'{"a": "a"}'), ["show", "a"], 3, ("'a'",)),
    "prompt template is no TOML": (
        placed(f"{CONFIG}/templates/t.toml", b"prompt = "),
        ["generate", "-T", "t", "Hi"],
        2,
        ("t.toml",),
    ),
    "settings of a terabyte": (huge_at(f"{CONFIG}/config.toml"), ["list"], 2, ("config.toml is larger",)),
    "aliases of a terabyte": (huge_at(f"{CONFIG}/aliases.json"), ["show", "a"], 2, ("aliases.json",)),
    "aliases are a FIFO": (fifo_at(f"{CONFIG}/aliases.json"), ["show", "a"], 2, ("aliases.json is not a file",)),
    "prompt template is a FIFO": (
        fifo_at(f"{CONFIG}/templates/t.toml"),
        ["generate", "-T", "t", "Hi"],
        2,
        ("t.toml is not a file",),
    ),
    "data is a file": (placed("XDG_DATA_HOME", b""), ["pull", "starter"], 1, ("XDG_DATA_HOME",)),
    "chat of noise": (placed(f"{DATA}/conversations/x.jsonl", b"\x1b\xff\n"), ["chats", "show", "x"], 1, ("line 1",)),
    "chat nested deeply": (
        placed(f"{DATA}/conversations/x.jsonl", BEGIN + b"[" * 90_000 + b"\n"),
        ["chats", "show", "x"],
        1,
        ("line 2", "damaged"),
    ),
    "chat of a later version": (
        placed(f"{DATA}/conversations/x.jsonl", BEGIN.replace(b"1}", b"9}")),
        ["chats", "show", "x"],
        1,
        ("later version",),
    ),
    "chat of a terabyte": (huge_at(f"{DATA}/conversations/x.jsonl"), ["chats", "show", "x"], 1, ("256 MiB",)),
    "chat is a folder": (folder_at(f"{DATA}/conversations/x.jsonl"), ["chats", "show", "x"], 2, ("'x'",)),
    "chat is a FIFO": (fifo_at(f"{DATA}/conversations/x.jsonl"), ["chats", "show", "x"], 2, ("'x'",)),
    "chats are a file": (placed(f"{DATA}/conversations", b""), ["chats", "show", "x"], 2, ("'x'",)),
    "model in the store is noise": (
        placed(f"{DATA}/models/m.gguf", b"noise"),
        ["generate", "-m", "m", "Hi"],
        4,
        ("not a GGUF file",),
    ),
    "model in the store is a folder": (folder_at(f"{DATA}/models/m.gguf"), ["show", "m"], 3, ("'m'",)),
}


@pytest.mark.parametrize("name", STORES)
def test_damaged_settings_and_stores_end_with_a_message(name: str, tmp_path: Path) -> None:
    change, arguments, code, says = STORES[name]
    change(tmp_path)
    before = {} if "terabyte" in name else fingerprint(tmp_path)
    outcome = run_forked(arguments, tmp_path)
    check(outcome, code, says)
    # The damaged file is kept for the user to inspect.
    assert (
        "terabyte" in name or {path: found for path, found in fingerprint(tmp_path).items() if path in before} == before
    )


def test_a_damaged_chat_does_not_hide_the_others(tmp_path: Path) -> None:
    placed(f"{DATA}/conversations/good.jsonl", BEGIN)(tmp_path)
    placed(f"{DATA}/conversations/bad.jsonl", b"\xff\n")(tmp_path)
    outcome = run_forked(["chats", "list"], tmp_path)
    assert outcome.code == 0
    assert b"good" in outcome.stdout


def test_a_chat_locked_by_another_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "XDG_DATA_HOME"))
    file, begin = ConversationFile.create("test")
    for arguments in (["chats", "rm", begin.id, "--yes"], ["chat", "--resume", begin.id, "-m", "./none"]):
        check(run_forked(arguments, tmp_path), 1, ["is open in another llm chat"])
    file.close()
    assert file.path.exists()


def test_weights_larger_than_memory_are_refused_before_reading(tmp_path: Path) -> None:
    folder = sound_folder(tmp_path / "model")
    size = 1 << 30
    config(intermediate_size=size)(folder)
    sizes = {"gate_proj": [size, 32], "up_proj": [size, 32], "down_proj": [32, size]}

    def enlarge(names: dict[str, dict[str, object]], data: bytearray) -> None:
        end = len(data)
        for name, entry in names.items():
            for part, shape in sizes.items():
                if part in name:
                    entry.update(shape=shape, data_offsets=[end, end + 4 * size * 32])
                    end += 4 * size * 32

    weights(enlarge)(folder)
    # The previous, smaller tensors would leave gaps, which no reader accepts: so each tensor is moved.
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    names = json.loads(raw[8 : 8 + length])
    end = 0
    for name, entry in names.items():
        if name != "__metadata__":
            count = entry["data_offsets"][1] - entry["data_offsets"][0]
            entry["data_offsets"], end = [end, end + count], end + count
    header = json.dumps(names).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    # A sparse file of zeros takes no space on the disk.
    os.truncate(path, 8 + len(header) + end)
    outcome = run_forked(["generate", "-m", folder, "-n", 2, "--dtype", "float32", "Hi"], tmp_path)
    check(outcome, 5, ["does not fit", "384.00 GiB", "free"])


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


SECRET = "hf_CanaryCanaryCanary"


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (401, "RepoNotFound", "own/er"),
        (403, "GatedRepo", "own/er"),
        (404, "RepoNotFound", "own/er"),
        (404, "RevisionNotFound", "own/er"),
        (429, "", "own/er"),
        (500, "", "own/er"),
    ],
)
def test_errors_of_a_hub_are_explained(hub: FakeHub, status: int, code: str, says: str, tmp_path: Path) -> None:
    hub.answers = {"/api/": (status, code)}
    env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": SECRET}
    outcome = run(["pull", "own/er"], tmp_path, env=env)
    check(outcome, 3, [says])
    assert SECRET not in outcome.stderr


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
    ids=["offline", "not there"],
)
def test_an_unreachable_hub_is_explained(env: dict[str, str], says: str, tmp_path: Path) -> None:
    outcome = run_forked(["generate", "-m", "own/er", "Hi"], tmp_path, env={**env, "HF_TOKEN": SECRET})
    check(outcome, 3, [says])
    assert SECRET not in outcome.stderr


@pytest.mark.parametrize("fault", ["cut", "wrong"])
def test_an_incomplete_download_is_not_kept(fault: str, tmp_path: Path) -> None:
    name = "model.gguf"
    with running_hub() as hub:
        hub.repos["own/er"] = {name: b"GGUF" + bytes(5000)}
        getattr(hub, fault).add(name)
        env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
        check(run(["pull", "own/er"], tmp_path, env=env), 3, [name if fault == "wrong" else "own/er"])
        assert list((tmp_path / "HF_HOME").rglob(name)) == []
