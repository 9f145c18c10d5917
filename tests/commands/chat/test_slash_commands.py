"""Slash commands in a chat without a terminal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

import llmcli
from llmcli.commands.chat.completion import CommandCompleter
from llmcli.commands.chat.keyboard import Keyboard, is_open_fence, unfenced
from llmcli.commands.chat.session import ChatModel, ChatSession
from llmcli.commands.chat.slash_command import Command
from llmcli.commands.chat.slash_commands import Commands
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.conversations.store import conversation_files, read_conversation
from llmcli.engine import Conversation, SamplingParams
from llmcli.errors import LlmcliError, PromptTooLongError, UsageError
from llmcli.hub.aliases import set_alias
from llmcli.views.terminal import terminal
from tests.support.models.puppet import ASSISTANT, END, chain, loop, write_puppet
from tests.support.models.tiny_checkpoints import tiny_checkpoint

GREEDY = SamplingParams(temperature=0, seed=1)


class Chat:
    """A chat with messages from a list and captured output."""

    def __init__(self, session: ChatSession, capsys: pytest.CaptureFixture[str]) -> None:
        self.session, self._capsys = session, capsys
        self.commands = Commands(session)

    def __call__(self, text: str) -> str:
        """All output in response to `text`."""
        self._capsys.readouterr()
        if not self.commands.obey(text):
            self.session.reply_to(text)
        said = self._capsys.readouterr()
        return said.out + said.err

    @property
    def texts(self) -> list[str]:
        """The text of the conversation as the model reads it."""
        return [message.content for message in self.session.messages()]


Start = Callable[..., Chat]


@pytest.fixture
def start(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(Path, "open", _without_keyboard(Path.open))
    with ExitStack() as stack:

        def make(model: Path, *, quiet: bool = False, talk: LiveConversation | None = None, **params: object) -> Chat:
            terminal.set_quiet(quiet)

            def load(name: str | None) -> ChatModel:
                loaded = llmcli.load(name or model)
                assert loaded.template is not None
                conversation = Conversation(loaded.engine(), loaded.tokenizer, loaded.template)
                return ChatModel(loaded, conversation, GREEDY, name or str(model), None)

            session = ChatSession(load(None), talk or LiveConversation(), ReportOptions(), Keyboard(stack), load)
            stack.callback(session.close)
            return Chat(session, capsys)

        yield make
    terminal.set_quiet(False)


def _without_keyboard(open_file: Callable[..., object]) -> Callable[..., object]:
    def opened(path: Path, *arguments: object, **options: object) -> object:
        if path == Path("/dev/tty"):
            raise OSError
        return open_file(path, *arguments, **options)

    return opened


@pytest.fixture
def yes(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "yes", chain(b"Yes, ok."))


@pytest.mark.parametrize("columns", [80, 120])
def test_rows_of_lists_fit_the_width(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    chat = start(write_puppet(tmp_path / "roomy", chain(b"Yes, ok."), context=4000))
    chat("世界" * 60 + "\nand a second line")
    chat("/retry")
    chat("🙂 " * 100)
    monkeypatch.setattr(terminal, "row_width", lambda: columns)
    for command, rows in (("/branches", 2), ("/sessions", 1), ("/tokens", 5)):
        lines = chat(command).splitlines()
        assert len(lines) == rows
        assert all(cell_len(line) <= columns for line in lines)
        assert max(map(cell_len, lines)) >= columns - 2
    for command in ("/help", "/show"):
        lines = chat(command).splitlines()
        # The last paragraph is broken by the terminal; a path stays whole.
        assert all(cell_len(line) <= columns for line in lines[:-1])
        assert all(line.startswith((" " * 8, "/")) for line in lines[:-1]) or command == "/show"


def test_clear_says_what_is_kept(start: Start, yes: Path) -> None:
    chat = start(yes)
    assert chat("/clear") == "The conversation begins anew. Kept: the model and all settings.\n"
    chat("One?")
    chat("/undo")
    chat("/system Be brief.")
    chat("Two?")
    assert "Kept: what was said (/branches 2 goes back to it), the system prompt, the model and all" in chat("/clear")
    chat("/branches 2")
    assert chat.texts == ["Two?", "Yes, ok."]


def test_undo_retry_clear_and_branches(start: Start, yes: Path) -> None:
    chat = start(yes)
    for command in ("/undo", "/retry", "/branches", "/history", "/why", "/copy", "/edit last"):
        with pytest.raises(UsageError, match=r"Nothing has been said|no reply yet"):
            chat(command)
    chat("One?")
    chat("Two?")
    assert chat.texts == ["One?", "Yes, ok.", "Two?", "Yes, ok."]
    assert "Taken back: Two?" in chat("/undo")
    assert chat.texts == ["One?", "Yes, ok."]
    chat("Three?")
    chat("/retry")
    assert chat.texts == ["One?", "Yes, ok.", "Three?", "Yes, ok."]
    listed = chat("/branches")
    assert [line[:2] for line in listed.splitlines()] == [" 1", " 2", ">3"]
    chat("/branches 1")
    assert chat.texts == ["One?", "Yes, ok.", "Two?", "Yes, ok."]
    with pytest.raises(UsageError, match="no branch 4"):
        chat("/branches 4")
    assert "/branches 1 goes back" in chat("/clear")
    assert chat.texts == []
    path = chat.session.saved_as()
    assert path is not None
    # The saved file has the same conversation.
    tree, _ = read_conversation(path)
    assert tree.head == 0
    assert len(tree.leaves()) == 3


def test_branch_replaces_a_token_of_the_reply(start: Start, tmp_path: Path) -> None:
    # After A comes C, D or the end; each of them ends the reply.
    tokens = {ASSISTANT: {65: 1.0}, 65: {67: 0.5, 68: 0.3, END: 0.2}, 67: {END: 1.0}, 68: {67: 1.0}}
    chat = start(write_puppet(tmp_path / "m", tokens))
    chat.session.report = ReportOptions(probs=True, top=2)
    chat("hi")
    first = chat.texts[-1]
    assert len(first) == 2
    asked = chat("/branch 1 2")
    # The alternative, the tokens after it, and all fields of each token.
    assert chat.texts[-1][0] == first[0]
    assert chat.texts[-1][2] == first[1]
    assert "30.0%" in asked
    assert len(chat.session.last_steps) == 3
    assert [step.logprob is None for step in chat.session.last_steps] == [False] * 3
    assert "end of the reply" in chat("/branch 1 3")
    assert chat.texts[-1] == first[0]
    chat("/branches 1")
    assert chat.texts[-1] == first
    for wrong, told in (
        ("/branch 1", "needs the number"),
        ("/branch 5 1", "no token 5"),
        ("/branch 1 0", "numbered from 1"),
        ("/branch 1 x", "not a number"),
        ("/branch 1 1", "what the reply says there"),
    ):
        with pytest.raises(UsageError, match=told):
            chat(wrong)
    assert len(chat.session.live.tree.leaves()) == 3


def test_why_shows_the_effect_of_each_filter(start: Start, tmp_path: Path) -> None:
    chat = start(tiny_checkpoint(tmp_path / "m", "llama", max_position_embeddings=512))
    chat("/set max-tokens 4")
    chat("/set temperature 0.9")
    chat("/set top-k 5")
    chat("/set min-p 0.2")
    chat("hi")
    # With the settings of the reply, not the current ones.
    chat("/set top-k 2")
    said = chat("/why 2")
    assert "temp 0.9" in said and "top-k 5" in said and "top-p 0.95" in said and "min-p 0.2" in said
    assert "out" in said
    assert "/branch 2 K" in said
    assert "neurons" in said


def test_why_and_lens_find_a_word(start: Start, tmp_path: Path) -> None:
    chat = start(write_puppet(tmp_path / "again", loop(b"on, ")))
    chat("/set max-tokens 10")
    chat("hi")
    assert chat.texts[-1] == "on, on, on"
    said = chat("/why on")
    assert "“on” is tokens 0 to 1 of the reply" in said
    assert "3 times, and this is number 1; /why on 2 explains number 2." in said
    # The alternatives of both tokens, the rest of the first.
    assert "/branch 0 K" in said and "/branch 1 K" in said and said.count("neurons") == 1
    said = chat("/lens on 2")
    assert "“on” is tokens 4 to 5" in said and "/why on 3 explains number 3" in said and "expect noise" in said
    assert "/why on 1 explains number 1" in chat("/attention on 3")
    said = chat("/attention n,")
    assert "“n,” is tokens 1 to 2" in said and "2 times" in said
    for wrong in ("/why Rome", "/why on 4", '/why "4"'):
        with pytest.raises(UsageError, match="is not in the last reply"):
            chat(wrong)
    with pytest.raises(UsageError, match=r'There is no token 10.*in quotes: "10"'):
        chat("/why 10")


def test_set_accepts_filters_with_several_values(start: Start, yes: Path) -> None:
    chat = start(yes)
    assert "logit-bias: 64-2" in chat("/set logit-bias a-2")
    assert "logit-bias: 64-2 66+1" in chat("/set logit-bias 66+1")
    assert "logit-bias: 64-inf 66+1" in chat("/set logit-bias a-inf")
    assert chat.session.params.logit_bias == ((64, -math.inf), (66, 1.0))
    assert "dry-sequence-breaker: 'x'" in chat("/set dry-sequence-breaker x")
    chat("/set dry-multiplier 0.8")
    shown = chat("/show")
    assert "64-inf 66+1" in shown and "dry-multiplier" in shown and "typical-p" not in shown
    for wrong in ("/set logit-bias abc-1", "/set logit-bias a", "/set dry-sequence-breaker abc", "/set typical 0"):
        with pytest.raises(UsageError):
            chat(wrong)
    assert chat.session.params.dry_sequence_breakers == ("x",)
    # Another model may have other tokens.
    before = chat.session.params
    chat(f"/model {yes}")
    assert chat.session.params == replace(before, logit_bias=())


def test_a_recorded_reply_keeps_its_sampling_settings(start: Start, tmp_path: Path) -> None:
    chat = start(tiny_checkpoint(tmp_path / "m", "llama", max_position_embeddings=512))
    chat("/set max-tokens 4")
    chat("/set temperature 1")
    chat("/set logit-bias 7-inf")
    chat("/set xtc-probability 0.5")
    chat("hi")
    params = chat.session.params
    chat("/set logit-bias none")
    assert chat.session.params_of(chat.session.last_reply().node) == params
    assert "bias" in (said := chat("/why 2")) and "xtc 0.1" in said


def test_set_and_show_change_and_list_settings(start: Start, yes: Path, tmp_path: Path) -> None:
    chat = start(yes)
    assert "temperature: 0.25" in chat("/set temp 0.25")
    assert chat.session.params.temperature == 0.25
    chat("/set stop ok")
    chat("/set max_tokens 3")
    shown = chat("/show")
    assert (
        "max-tokens        3" in shown
        and "stop-in-thinking  off" in shown
        and "'ok'" in shown
        and "(not saved)" in shown
    )
    assert "stop-in-thinking: on" in chat("/set stop-in-thinking on")
    assert "stop-in-thinking  on" in chat("/show")
    assert "stop-in-thinking: off" in chat("/set stop_in_thinking default")
    chat("/set max-tokens none")
    chat("/set temperature default")
    chat("hi")
    assert chat.texts[-1] == "Yes, "
    for wrong in ("heat 1", "temperature", "temperature hot", "temperature -1", "top-k 1.5", "stop-in-thinking 1"):
        with pytest.raises(UsageError):
            chat(f"/set {wrong}")
    assert "probs: on" in chat("/probs on")
    assert "top: 2" in chat("/top 2")
    assert "could have been" in chat("hi")
    for wrong in ("/probs maybe", "/top -1", "/top x"):
        with pytest.raises(UsageError):
            chat(wrong)
    assert "message['role']" in chat("/template")
    chat("/system Be brief.")
    assert "(none)" in chat("/system none")
    other = write_puppet(tmp_path / "no", chain(b"No!"))
    assert "Model: no" in chat(f"/model {other}")
    assert chat.session.params.stop == ("ok",)
    chat("/set stop none")
    chat("again")
    assert chat.texts[-1] == "No!"
    chat("/undo")
    with pytest.raises(UsageError, match="by yes"):
        chat("/why")
    with pytest.raises(LlmcliError):
        chat("/model /nowhere")
    assert chat.session.loaded.name == "no"


def test_text_from_files_and_the_editor(
    start: Start, yes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = start(yes)
    (tmp_path / "a note.txt").write_text("the text\n")
    assert "8 tokens" in chat(f"/read {tmp_path}/a note.txt")
    chat("Sum up")
    sent = f"{tmp_path}/a note.txt\n```\nthe text\n```\n\nSum up"
    assert chat.texts[0] == sent
    assert "2 messages  Sum up / Yes, ok." in chat("/branches")
    (tmp_path / "binary").write_bytes(b"\0\1")
    for wrong in ("/read", "/read /nowhere", f"/read {tmp_path}/binary", f"/read {tmp_path}", "/edit first"):
        with pytest.raises(UsageError):
            chat(wrong)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ncat "$1" >> "$1.seen"; printf "edited: %s" "$(cat "$1")" > "$1"\n')
    editor.chmod(0o700)
    monkeypatch.setenv("VISUAL", str(editor))
    chat("/edit last")
    assert chat.texts == [f"edited: {sent}", "Yes, ok."]
    monkeypatch.setenv("VISUAL", "true")
    assert "Nothing was sent" in chat("/edit")
    for command in ("false", "/no/editor"):
        monkeypatch.setenv("VISUAL", command)
        with pytest.raises(LlmcliError, match="editor"):
            chat("/edit")


def test_a_saved_conversation_loads_with_the_same_prompt_ids(start: Start, yes: Path, tmp_path: Path) -> None:
    chat = start(yes)
    chat("/system Be brief.")
    chat("One?")
    chat("Two?")
    chat(f"/save {tmp_path}/x.json")
    chat(f"/save {tmp_path}/x.md")
    assert (tmp_path / "x.md").read_text().startswith("# One?\n\n## System\n\nBe brief.")
    with pytest.raises(UsageError, match="exists"):
        chat(f"/save {tmp_path}/x.md")
    prompt = chat.session.prompt("Three?")
    first = chat.session.saved_as()
    assert first is not None
    assert f">{first.stem}" in chat("/sessions")
    chat(f"/load {tmp_path}/x.json")
    assert chat.texts == ["One?", "Yes, ok.", "Two?", "Yes, ok."]
    assert chat.session.conversation.system == "Be brief."
    chat("/undo")
    chat("/system Else.")
    second = chat.session.saved_as()
    assert second not in (None, first)
    loaded = chat(f"/load {first.stem}")
    assert loaded.splitlines() == [
        "Continuing 4 messages, yes: One?",
        "> Two?",
        "yes:",
        "Yes, ok.",
        "",
        "/history prints all of it.",
    ]
    assert chat("/history").splitlines() == ["> One?", "yes:", "Yes, ok.", "", "> Two?", "yes:", "Yes, ok.", ""]
    # The same ids, including the system prompt.
    assert chat.session.prompt("Three?") == prompt
    with pytest.raises(UsageError, match="you are in"):
        chat(f"/load {first.stem}")
    with pytest.raises(UsageError, match="no conversation"):
        chat("/load nothing")
    with pytest.raises(UsageError, match=r"There is no branch 2; there is 1\.$"):
        chat("/branches 2")
    chat(f"/load {second.stem}")
    chat("/clear")
    chat(f"/load {first.stem}")
    assert chat(f"/load {second.stem}").splitlines() == [
        "Continuing 0 messages, yes: One?",
        "It was begun anew; /branches lists what was said before.",
    ]
    chat(f"/load {first.stem}")
    chat.session.close()
    talk, note = LiveConversation.resume(first)
    assert note is None
    again = start(yes, talk=talk)
    again.session.conversation.system = "Be brief."
    assert again.session.prompt("Three?") == prompt
    assert len(conversation_files()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_failed_save_leaves_no_partial_file(
    start: Start, yes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = start(yes)
    chat("One?")
    path, opened = tmp_path / "x.md", Path.open

    def full(self: Path, *args: Any, **options: Any) -> Any:
        file = opened(self, *args, **options)
        if self == path:
            device = os.open("/dev/full", os.O_WRONLY)
            os.dup2(device, file.fileno())
            os.close(device)
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UsageError, match="No space left"):
        chat(f"/save {path}")
    monkeypatch.undo()
    assert not path.exists()
    chat(f"/save {path}")
    assert path.exists()


def test_a_full_context_is_reported_and_messages_are_not_dropped_silently(start: Start, tmp_path: Path) -> None:
    chat = start(write_puppet(tmp_path / "m", chain(b"ok"), context=64))
    chat("a" * 20)
    near = chat("b" * 20)
    assert "20 tokens" in near and "of 64 are used" in near
    with pytest.raises(PromptTooLongError, match="drop-oldest"):
        chat("g" * 16)
    assert "forgotten" in chat("/context stop")
    with pytest.raises(PromptTooLongError, match="drop-oldest"):
        chat("c" * 16)
    assert chat.texts == ["a" * 20, "ok", "b" * 20, "ok"]
    with pytest.raises(UsageError, match="summarise"):
        chat("/context forget")
    assert chat.session.toolbar("f" * 7).startswith("54 + 7/64 tokens")
    assert chat.session.toolbar("").startswith("54/64 tokens")
    said = chat("/context drop-oldest")
    assert "no longer reads the oldest 2 messages" in said and "aaa" in said
    assert chat.texts == ["b" * 20, "ok", "c" * 16, "ok"]
    assert "(not read any more)" in chat("/tokens")
    assert "5 tokens" in chat("/tokens hello")
    # From now on messages are dropped automatically, each time with a message.
    assert "no longer reads" in chat("d" * 20)
    with pytest.raises(PromptTooLongError, match="does not fit even alone"):
        chat("e" * 100)
    assert chat.texts[-2:] == ["d" * 20, "ok"]
    # Still in /history.
    assert len(chat.session.live.tree.path()) == 8


def test_a_summary_replaces_dropped_messages(start: Start, tmp_path: Path) -> None:
    chat = start(write_puppet(tmp_path / "m", chain(b"ok"), context=400), quiet=True)
    chat("/context summarise")
    chat("a" * 200)
    said = chat("b" * 220)
    assert "in their place: ok" in said
    assert chat.texts[1:] == ["ok", "b" * 220, "ok"]
    assert chat.texts[0].startswith("Summarise")


def test_quiet_suppresses_notes_but_not_answers_to_commands(start: Start, tmp_path: Path) -> None:
    chat = start(write_puppet(tmp_path / "m", loop(b"abc"), context=40), quiet=True)
    assert "abc" in (said := chat("hi"))
    assert "context is full" not in said
    assert chat("/clear") == ""
    assert "/exit" in chat("/help")


def test_unknown_commands_and_slashes(start: Start, yes: Path) -> None:
    chat = start(yes)
    with pytest.raises(UsageError, match="Did you mean /branches"):
        chat("/branchs")
    with pytest.raises(UsageError, match="/help lists them"):
        chat("/zzzzzz")
    chat("//x is a path")
    chat("/usr/bin\nis a folder")
    assert chat.texts[::2] == ["/x is a path", "/usr/bin\nis a folder"]
    chat("/system a\nb")
    assert chat.session.conversation.system == "a\nb"


def test_tab_completes_commands_choices_and_files(
    start: Start, yes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    completer = CommandCompleter(start(yes).commands.table)
    (tmp_path / "notes.txt").write_text("x")

    def completed(text: str) -> list[str]:
        return [each.text for each in completer.get_completions(Document(text), CompleteEvent())]

    assert completed("/br") == ["branch ", "branches "]
    assert completed("/set top") == ["top-n-sigma", "top-k", "top-p"]
    assert completed("/context s") == ["summarise", "stop"]
    assert completed(f"/read {tmp_path}/no") == ["tes.txt"]
    assert completed(f"/read {os.devnull[:-1]}") == ["l"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    set_alias("start-up", str(yes))
    assert completed("/model star") == ["starter", "start-up"]
    assert completed("/model no") == ["tes.txt"]
    assert "notes.txt" not in completed("/model ")
    assert completed("/nothing x") == completed("word") == completed("/x\n/br") == []


@pytest.mark.parametrize(
    ("text", "message", "is_open"),
    [
        ('"""a\nb"""', "a\nb", False),
        ('"""\na\n"""\n', "a", False),
        ('"""', '"""', True),
        ('"""a', '"""a', True),
        ('""""""', "", False),
        ('say """a"""', 'say """a"""', False),
        (" a ", " a ", False),
    ],
)
def test_fences_enclose_several_lines(text: str, message: str, is_open: bool) -> None:
    assert unfenced(text) == message
    assert is_open_fence(text) is is_open


def test_every_slash_command_has_help(start: Start, yes: Path) -> None:
    table: dict[str, Command] = start(yes).commands.table
    wanted = (
        "help model system set show clear undo retry edit save load sessions tokens stats context template copy read "
        "exit history probs top why lens attention thought branch branches"
    )
    assert set(table) == set(wanted.split())
    assert all(command.what and len(command.what) < 80 for command in table.values())


def test_chats_lists_shows_exports_and_removes(start: Start, yes: Path, tmp_path: Path) -> None:
    from tests.support.terminal.cli import llm

    env = {"XDG_DATA_HOME": str(tmp_path / "data")}
    assert b"No conversation" in llm("chats", "list", env=env).stderr
    for question in ("One?", "Two?"):
        result = llm("chat", "-m", yes, "-t", 0, "--seed", 1, "-q", stdin=question.encode(), env=env)
        assert result.stdout == b"Yes, ok.\n"
    # --continue resumes the latest conversation, with its model.
    assert llm("chat", "-c", "-t", 0, "-q", stdin=b"Three?", env=env).stdout == b"Yes, ok.\n"
    assert llm("chat", "-c", "--no-save", "-t", 0, "-q", stdin=b"Four?", env=env).stdout == b"Yes, ok.\n"
    rows = json.loads(llm("chats", "list", "--json", env=env).stdout)
    assert sorted((row["title"], row["messages"], row["model"]) for row in rows) == [
        ("One?", 2, "yes"),
        ("Two?", 4, "yes"),
    ]
    two = next(row["id"] for row in rows if row["title"] == "Two?")
    assert two.encode() in llm("chats", "list", env=env).stdout
    assert b"## You\n\nThree?" in llm("chats", "show", two, env=env).stdout
    exported = json.loads(llm("chats", "export", two[-4:], env=env).stdout)
    assert [message["content"] for message in exported["messages"]] == ["Two?", "Yes, ok.", "Three?", "Yes, ok."]
    assert exported["messages"][1]["ids"]
    assert llm("chats", "export", two, "-f", "markdown", env=env).stdout.startswith(b"# Two?")
    assert llm("chats", "rm", two, env=env).returncode == 0
    assert llm("chats", "show", two, env=env).returncode == 2
    assert llm("chat", "--resume", two, env=env).returncode == 2
    assert llm("chat", "-c", "-m", tmp_path, env=env).returncode == 2
