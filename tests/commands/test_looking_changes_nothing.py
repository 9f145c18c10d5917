"""Flags that show more about a reply do not change its tokens: packed weights, and layers with states."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.commands.chat.keyboard import Keyboard
from llmcli.commands.chat.session import ChatModel, ChatSession
from llmcli.commands.chat.slash_commands import Commands
from llmcli.commands.shared.options.report import ReportOptions
from llmcli.conversations.live_conversation import LiveConversation
from llmcli.engine import Conversation, Engine, Event, Finish, SamplingParams, Step
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.terminal.cli import llm

LENGTH = 24
# The prompt repeats itself, so that lookup has something to propose.
PROMPT = "say it again, say it again, say it"
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0, "seed": 7},
    {"temperature": 0.9, "seed": 7},
    {
        "temperature": 0.9,
        "seed": 7,
        "xtc_probability": 0.5,
        "dry_multiplier": 0.8,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
    },
]
LOOKING = [
    ["--attention"],
    ["--attention", "--attention-by", "word", "--jsonl"],
    ["--probs"],
    ["--top", "3"],
    ["--json"],
    ["--json", "--attention"],
    ["--jsonl"],
    ["--stats"],
    ["--html", "page.html", "--attention"],
    ["--record", "run.json"],
    ["--record", "other.json", "--attention", "--probs", "--top", "2"],
]
# What these need of a step, attention, probabilities and neither, is all that they need together.
SOME = [["--stats"], ["--jsonl"], LOOKING[-1]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights quantized to 4 bits in blocks."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "max_position_embeddings": 512}
    path = tmp_path_factory.mktemp("m") / "model.gguf"
    return write_gguf(made("llama 3.1", **sizes), path, kind_of=quantized(Kind.Q4_1))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[int], str]]:
    """Collects the ids of every reply and the path that generated them."""
    replies: list[tuple[list[int], str]] = []
    stream: Callable[..., Iterator[Event]] = Engine.stream

    def recording(self: Engine, *arguments: Any, **options: Any) -> Iterator[Event]:
        events, ids = stream(self, *arguments, **options), list[int]()

        def heard() -> Iterator[Event]:
            for event in events:
                if isinstance(event, Step):
                    ids.append(event.id)
                if isinstance(event, Finish):
                    replies.append((ids, event.stats.path))
                yield event

        return heard()

    monkeypatch.setattr(Engine, "stream", recording)
    return replies


def flags(sampling: dict[str, Any]) -> list[str]:
    return [text for name, value in sampling.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("helped", [[], ["--no-lookup"], ["--draft-tokens", "3", "--draft"]], ids=" ".join)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn", "filtered"])
def test_generate(
    model: Path,
    said: list[tuple[list[int], str]],
    sampling: dict[str, Any],
    helped: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    helped = [*helped, str(model)] if "--draft" in helped else helped
    command = ["generate", PROMPT, "-m", model, "-n", LENGTH, *flags(sampling), *helped]
    plain = llm(*command)
    (expected,) = said
    assert len(expected[0]) > LENGTH // 2
    for looking in SOME if helped else LOOKING:
        if "--record" in looking and "--draft" in helped:
            looking = ["--attention"]  # a replay has no draft
        result = llm(*command, *looking)
        assert result.returncode == 0, result.stderr
        assert said.pop() == expected, looking
        if not {"--json", "--jsonl"} & set(looking):
            assert result.stdout == plain.stdout, looking
        if "--record" in looking:
            recorded = json.loads(Path(looking[1]).read_text())["tokens"]
            assert [token["id"] for token in recorded] == expected[0]
    assert llm(*command, "--json").returncode == 0 and said[0] == expected


# With states beside attention and without attention, with and without a kernel.
@pytest.mark.parametrize("case", ["bamba", "qwen 3.5", "mamba", "xlstm", "qwen 4"])
def test_generate_with_states(
    case: str, said: list[tuple[list[int], str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model_type, changes = RECURRENT[case]
    folder = shared_checkpoint(model_type, **changes)
    for sampling in SAMPLINGS[0], SAMPLINGS[2]:
        command = ["generate", PROMPT, "-m", folder, "-n", LENGTH, *flags(sampling)]
        llm(*command)
        expected = said.pop()
        assert len(expected[0]) > LENGTH // 2
        for looking in (["--attention"], *SOME):
            result = llm(*command, *looking)
            assert result.returncode == 0, result.stderr
            assert said.pop() == expected, looking


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn", "filtered"])
def test_batch(model: Path, said: list[tuple[list[int], str]], sampling: dict[str, Any]) -> None:
    lines = json.dumps({"prompt": PROMPT}).encode() + b"\n"
    command = ["batch", "-", "-m", model, "-n", LENGTH, *flags(sampling)]
    plain, looked_at = (json.loads(llm(*command, *more, stdin=lines).stdout) for more in ([], ["--stats"]))
    assert plain == looked_at
    one = json.loads(llm("generate", PROMPT, "-m", model, "-n", LENGTH, *flags(sampling), "--json").stdout)
    assert plain["text"] == one["text"]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn", "filtered"])
def test_python(model: Path, said: list[tuple[list[int], str]], sampling: dict[str, Any]) -> None:
    loaded = llmcli.load(model)
    for looking in ({}, {"top": 3, "probabilities": True}, {"probabilities": True}):
        list(loaded.stream(PROMPT, max_tokens=LENGTH, **looking, **sampling))
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "drawn", "filtered"])
def test_chat(
    model: Path, said: list[tuple[list[int], str]], sampling: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = chat_replies(model, said, sampling, ReportOptions(), [])
    assert len({tuple(ids) for ids, _ in expected}) == 3
    for report in (
        ReportOptions(attention=True),
        ReportOptions(attention=True, attention_by="message", probs=True),
        ReportOptions(top=3),
    ):
        assert chat_replies(model, said, sampling, report, []) == expected
    commands = ["/why", "/why 0", "/why 9", "/lens 3", "/attention 5", "/why 20", "/why -2"]
    capsys.readouterr()
    assert chat_replies(model, said, sampling, ReportOptions(), commands) == expected
    assert capsys.readouterr().out.count("neurons") == 3 * 5


def chat_replies(
    model: Path,
    said: list[tuple[list[int], str]],
    sampling: dict[str, Any],
    report: ReportOptions,
    commands: Sequence[str],
) -> list[tuple[list[int], str]]:
    """The replies to three messages, with the slash `commands` after each."""
    said.clear()
    loaded = llmcli.load(model)
    assert loaded.template is not None
    params = SamplingParams(max_tokens=LENGTH, **sampling)
    conversation = Conversation(loaded.engine(lookup=None), loaded.tokenizer, loaded.template)

    def load(_name: str | None) -> ChatModel:
        return ChatModel(loaded, conversation, params, str(model), None)

    with ExitStack() as stack:
        session = ChatSession(load(None), LiveConversation(save=False), report, Keyboard(stack), load)
        stack.callback(session.close)
        for message in (PROMPT, "and again", "once more"):
            session.reply_to(message)
            for command in commands:
                assert Commands(session).obey(command)
    return list(said)
