"""`llm generate --log`, `-c` and `--resume`, and `llm log`: runs are kept, continued, listed and deleted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.store import ANY, ConversationKind, conversation_files, read_conversation
from tests.support.forked import on_terminal
from tests.support.models.puppet import chain, loop, write_puppet
from tests.support.models.tiny import write_text_files
from tests.support.terminal.cli import Result, llm, start


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("LLMCLI_", "XDG_")) and name != "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "llmcli"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("m") / "speaker", chain(b"Yes."))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_puppet(tmp_path_factory.mktemp("m") / "other", chain(b"No!"))


def runs() -> list[Path]:
    return conversation_files((ConversationKind.RUN,))


def texts(path: Path) -> list[str]:
    return [node.text for node in read_conversation(path)[0].path()]


def generate(*arguments: object, stdin: bytes = b"", code: int = 0) -> Result:
    result = llm("generate", *arguments, stdin=stdin)
    assert result.returncode == code, result
    return result


def reply(*arguments: object, **options: Any) -> dict[str, Any]:
    value = json.loads(generate(*arguments, "--json", **options).stdout)
    assert isinstance(value, dict)
    return value


def printed(*arguments: object) -> Any:
    result = llm("log", *arguments)
    assert result.returncode == 0, result
    return json.loads(result.stdout)


def test_a_run_is_kept_only_if_asked_for(home: Path, speaker: Path) -> None:
    assert "conversation" not in reply("One?", "-m", speaker)
    assert not home.exists()
    first = reply("One?", "-m", speaker, "--log", "-s", "Be brief.", "--seed", 7, "-t", 0.5)
    (path,) = runs()
    assert (path.stem, path.parent) == (first["conversation"], home / "runs")
    assert path.stat().st_mode & 0o777 == 0o600
    home.joinpath("config.toml").write_text("log = true\n")
    generate("Two?", "-m", speaker)
    generate("Three?", "-m", speaker, "--no-log")
    assert [texts(each) for each in runs()] == [["Two?", "Yes."], ["One?", "Yes."]]
    assert [run["messages"][0]["content"] for run in printed("--json")] == ["Two?", "One?"]
    run = printed("show", path.stem[-4:], "--json")
    assert printed("show", "--json") == printed("--json")[0] != run
    assert (run["model"], run["system"], run["raw"]) == ("speaker", "Be brief.", False)
    answer = run["messages"][1]
    assert (answer["prompt_tokens"], len(answer["ids"])) == (first["prompt_tokens"], 4)
    assert (answer["sampling"]["seed"], answer["sampling"]["temperature"]) == (7, 0.5)
    # Chats and runs stay apart.
    assert json.loads(llm("chats", "list", "--json").stdout) == []


def test_c_goes_on_with_model_and_settings_of_the_last_run(speaker: Path, other: Path) -> None:
    generate("One?", "-m", speaker, "--log", "-s", "Be brief.", "--template-arg", "x=1.5")
    path = runs()[0]
    second = reply("-c", "Two?")
    assert (second["model"], second["prompt"], second["conversation"]) == ("speaker", "Two?", path.stem)
    # The prompt of the same text written at once.
    before = [{"role": "system", "content": "Be brief."}, *({"role": role, "content": text} for role, text in (
        ("user", "One?"), ("assistant", "Yes."), ("user", "Two?")))]  # fmt: skip
    line = json.dumps({"messages": before}).encode()
    batch = json.loads(llm("batch", "-", "-m", speaker, stdin=line).stdout)
    assert batch["prompt_tokens"] == second["prompt_tokens"]
    assert generate("--resume", path.stem[-4:], "-m", other, "Three?").stdout == b"No!\n"
    assert generate("-c", "-", "--jsonl", stdin=b"Four?").stdout.count(path.stem.encode()) == 1
    assert texts(path) == ["One?", "Yes.", "Two?", "Yes.", "Three?", "No!", "Four?", "No!"]
    settings = read_conversation(path)[0].settings
    assert settings is not None and (settings.system, settings.template_args) == ("Be brief.", {"x": 1.5})


def test_c_with_a_model_goes_on_with_its_last_conversation_and_no_log_adds_nothing(speaker: Path, other: Path) -> None:
    generate("One?", "-m", speaker, "--log")
    generate("Two?", "-m", other, "--log")
    assert generate("-c", "-m", speaker, "More?").stdout == b"Yes.\n"
    path = runs()[0]
    assert texts(path) == ["One?", "Yes.", "More?", "Yes."]
    long = reply("-c", "--no-log", "Again?")
    assert "conversation" not in long and long["prompt_tokens"] > reply("Again?", "-m", speaker)["prompt_tokens"]
    assert texts(path) == ["One?", "Yes.", "More?", "Yes."]


def test_a_chat_is_continued_and_a_run_becomes_a_chat(speaker: Path, home: Path) -> None:
    assert llm("chat", "-m", speaker, stdin=b"One?").returncode == 0
    generate("-c", "Two?")
    (chat,) = conversation_files()
    assert texts(chat) == ["One?", "Yes.", "Two?", "Yes."] and not runs()
    generate("Three?", "-m", speaker, "--log")
    assert llm("chat", "-c", stdin=b"Four?").returncode == 0
    assert [path.parent for path in conversation_files(ANY)] == [home / "conversations"] * 2
    assert texts(conversation_files()[0]) == ["Three?", "Yes.", "Four?", "Yes."]


def test_forms_choices_prefills_and_templates_are_kept(speaker: Path) -> None:
    generate("One?", "-m", speaker, "--log", "--prefill", "Y", "-t", 0)
    generate("-c", "Two?", "--choices", "Yes.,No.")
    pytest.importorskip("llguidance")
    generate("-c", "Three?", "--regex", "Yes\\.")
    (path,) = runs()
    assert texts(path) == ["One?", "Yes.", "Two?", "Yes.", "Three?", "Yes."]
    ids = [node.ids for node in read_conversation(path)[0].path()[1::2]]
    assert [len(each) for each in ids] == [4, 0, 4] and ids[0] == ids[2]


def test_ctrl_c_keeps_what_was_said(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"abc "), context=100_000)
    process = start("generate", "hi", "-m", folder, "--log")
    assert process.stdout.read(4) == b"abc "
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    (path,) = runs()
    said = read_conversation(path)[0].last_reply()
    assert said is not None and said.reason == "interrupted"
    assert said.text.encode() == b"abc " + out.removesuffix(b"\n")
    assert llm("generate", "-c", "And?", "-n", 4).stdout == b"abc \n"


def test_several_replies_are_branches(speaker: Path) -> None:
    generate("One?", "-m", speaker, "--log", "--samples", 3, "--seed", 4, "-n", 1)
    (path,) = runs()
    tree, _ = read_conversation(path)
    assert [(node.text, (node.sampling or {})["seed"]) for node in tree.replies_to(1)] == [("Y", 4), ("Y", 5), ("Y", 6)]
    run = printed("show", path.stem, "--json")
    assert [each["sampling"]["seed"] for each in run["messages"][1]["alternatives"]] == [4, 5]
    shown = llm("log", "show", path.stem).stdout.decode()
    assert shown.count("## speaker\n\nY\n") == 3 and "seed 5" in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-c", "hi"], "There is no conversation to continue"),
        (["--resume", "none", "hi"], "There is no conversation 'none'; `llm chats list` and `llm log` show them."),
        (["-c", "hi", "--raw"], "--continue continues a conversation, and --raw"),
        (["--resume", "x", "--fill-in", "a", "b"], "--resume continues a conversation, and --raw"),
        (["--fill-in", "a", "b", "--log"], "--log does not go with --fill-in"),
    ],
)
def test_what_cannot_be_continued_is_a_usage_error(arguments: list[str], why: str) -> None:
    assert why in " ".join(generate(*arguments, code=2).stderr.decode().split())


def test_raw_text_is_no_conversation(speaker: Path, tmp_path: Path) -> None:
    generate("Once", "-m", speaker, "--raw", "--log", "-n", 2)
    assert printed("--json")[0]["raw"] is True
    for command in ("generate", "chat"):
        result = llm(command, "-c", stdin=b"And?")
        assert result.returncode == 2 and b"continued a text without a chat template" in result.stderr
    generate("One?", "-m", speaker, "--log")
    base = write_puppet(tmp_path / "base", chain(b"Yes."))
    write_text_files(base, template=None)
    result = generate("--resume", runs()[0].stem, "-m", base, "Two?", code=2)
    assert b"has no chat template, so it cannot continue" in result.stderr
    with_model = generate("-c", "-m", "no/such", "Two?", code=2)
    assert b"--resume ID -m no/such continues any other" in with_model.stderr


def test_an_open_conversation_is_not_written_to(speaker: Path) -> None:
    generate("One?", "-m", speaker, "--log")
    (path,) = runs()
    live, _ = LiveConversation.resume(path)
    process = start("generate", "-c", "Two?")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"is open in another llm chat or generate" in err
    # Reading it is no fault.
    process = start("generate", "-c", "--no-log", "Two?")
    assert process.communicate(timeout=60)[0] == b"Yes.\n"
    live.close()


def test_a_run_that_cannot_be_kept_is_still_answered(home: Path, speaker: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("a file")
    result = generate("One?", "-m", speaker, "--log", code=1)
    assert result.stdout == b"Yes.\n" and b"is not saved any more" in result.stderr


def test_a_damaged_run_does_not_hide_the_others(speaker: Path) -> None:
    for text in ("One?", "Two?", "Three?"):
        generate(text, "-m", speaker, "--log")
    newest = runs()[0]
    newest.write_bytes(b"garbage\n")
    result = llm("log", "-n", "1", "--jsonl")
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["messages"][0]["content"] == "Two?"
    assert b"is damaged" in result.stderr
    table = llm("log").stdout.decode().splitlines()
    assert table[0].split() == ["ID", "MODEL", "TOKENS", "PROMPT"]
    assert [row.split()[-1] for row in table[1:]] == ["Two?", "One?"]
    assert llm("log", "rm", newest.stem).returncode == 0
    assert len(runs()) == 2
    assert llm("log", "rm", "--all", "-y").returncode == 0
    assert runs() == []
    assert b"No run has been kept" in llm("log").stderr
    for wrong in (["rm"], ["show"], ["rm", "x", "--all"], ["show", "x"]):
        assert llm("log", *wrong).returncode == 2


@pytest.mark.slow
def test_the_table_fits_the_terminal(speaker: Path) -> None:
    generate("A question that is longer than any row of such a table can be, 質問 and so on", "-m", speaker, "--log")
    child = on_terminal(["log"], {**os.environ, "TERM": "xterm"}, size=(24, 60), encoding="utf-8")
    rows = child.read().splitlines()
    assert rows[1].endswith("…") and max(map(len, rows)) <= 60
    child.wait()
