from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.puppet import chain, write_puppet
from tests.support.terminal.cli import llm


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("LLMCLI_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def origins(*arguments: object, **variables: str) -> dict[str, tuple[object, str, str]]:
    result = llm("config", "--json", *arguments, env=variables)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["schema"] == "llmcli.config/1"
    return {one["name"]: (one["value"], one["source"], one["where"]) for one in found["settings"]}


def test_each_value_is_shown_with_its_source(home: Path) -> None:
    folder = write_puppet(home / "model", chain(b"a"))
    (folder / "generation_config.json").write_text('{"temperature": 0.5, "top_k": 7, "top_p": 0, "min_p": 0.1}')
    config = home / "CONFIG" / "llmcli" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'model = "{folder}"\nseed = 1\ntop_k = 2\n[chat]\nseed = 9\n')
    found = origins("generate", "--stop", "x", "--top-k", 5, "-n", 3, LLMCLI_SEED="2", LLMCLI_TOP_K="4")
    assert found["stop"] == (["x"], "flag", "--stop")
    assert found["top_k"] == (5, "flag", "--top-k")
    assert found["max_tokens"] == (3, "flag", "--max-tokens")
    assert found["seed"] == (2, "variable", "LLMCLI_SEED")
    assert found["model"] == (str(folder), "file", str(config))
    assert found["temperature"] == (0.5, "model", "model")
    # An invalid recommendation is ignored.
    assert found["top_p"] == (0.95, "default", "")
    assert found["min_p"] == (0.1, "model", "model")
    assert found["device"] == ("auto", "default", "")
    assert found["readable"] == (False, "default", "")
    assert origins("generate", "--readable")["readable"] == (True, "flag", "--readable")
    assert origins("chat")["seed"] == (9, "file", str(config))
    assert origins("generate")["top_k"] == (2, "file", str(config))


def test_a_greedy_model_is_shown_as_such_unless_the_user_samples(home: Path) -> None:
    folder = write_puppet(home / "model", chain(b"a"))
    (folder / "generation_config.json").write_text('{"do_sample": false, "top_p": 0.8, "max_new_tokens": 2048}')
    found = origins("generate", "-m", folder)
    assert found["temperature"] == (0.0, "model", "model")
    assert found["max_tokens"] == (None, "default", "")
    found = origins("generate", "-m", folder, "--top-k", 3)
    assert found["temperature"] == (0.8, "default", "")
    assert found["top_p"] == (0.8, "model", "model")


def test_a_model_recommends_settings_without_its_tokenizer(home: Path) -> None:
    folder = write_puppet(home / "model", chain(b"a"))
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    (folder / "tokenizer.json").write_text("damaged")
    assert origins("generate", "-m", folder)["temperature"] == (0.5, "model", "model")
    changes = {"tokenizer.ggml.model": "t5", "general.sampling.temp": 0.25}
    path = write_gguf(made("llama 2, grouped"), home / "other.gguf", changes=changes)
    assert origins("generate", "-m", path)["temperature"] == (0.25, "model", "other")


def test_the_settings_shown_are_the_settings_used(home: Path) -> None:
    folder = write_puppet(home / "model", chain(b"a"))
    flags = ["-m", folder, "-n", 1]
    seed = origins("generate", *flags, LLMCLI_SEED="11")["seed"][0]
    assert json.loads(llm("generate", "hi", *flags, "--json", env={"LLMCLI_SEED": "11"}).stdout)["seed"] == seed


def test_every_command_has_its_settings_and_no_model_is_fetched(home: Path) -> None:
    for words in (["chat"], ["score"], ["compare"], ["replay"], ["pull"], ["inspect", "lens"], ["inspect", "token"]):
        assert all(source in ("default", "model") for _, source, _ in origins(*words).values())
    result = llm("config")
    assert (result.returncode, b"What the model recommends is not known" in result.stderr) == (0, True)
    table = {line.split()[0]: line.split()[1:] for line in result.stdout.decode().splitlines()}
    assert table["--temperature"] == ["0.8", "default"]
    assert (table["--stop"], table["--json"]) == (["-", "default"], ["off", "default"])
    assert str(home / "CONFIG" / "llmcli" / "config.toml") in " ".join(result.stderr.decode().split()).replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nope"], "'llm nope' is no command"),
        (["inspect"], "'llm inspect' is no command with settings; there are attention"),
        (["generate", "--no-such-flag"], "no-such-flag"),
        (["generate", "--top-k", "many"], "Invalid value"),
    ],
)
def test_errors_are_usage_errors(arguments: list[str], why: str) -> None:
    result = llm("config", *arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert why in result.stderr.decode()
