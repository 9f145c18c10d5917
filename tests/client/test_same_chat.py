"""With a running server, `llm chat` says what it would say without one; looks into the model load it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import llmcli
from llmcli.client.find import WantedModel, identity_of
from llmcli.commands.chat.load import ChatModelLoader
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.options.speculation import SpeculationOptions
from llmcli.commands.shared.speculative import Speculator
from llmcli.conversations.store import ANY, conversation_files, read_conversation
from llmcli.engine import Event, Finish, Interruption, Prefill, Step
from llmcli.errors import LlmcliError, PromptTooLongError
from llmcli.server.wire import ReplyBegin, begin_value, event_value, line
from tests.support.canned_server import OK, canned_server
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.server import TestServer, serving
from tests.support.terminal.cli import llm

BEGIN = ReplyBegin("m", "cpu", {"seed": 1}, (1, 2), (), "", "", "", "begin", True, 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=600)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[TestServer]:
    identity = identity_of(WantedModel(str(model)))
    assert identity is not None
    with serving(llmcli.load(model), identity=identity) as server:
        yield server


def loader(model: Path, server: str, *bias: str) -> ChatModelLoader:
    options = ModelOptions(model=str(model), server=server)
    sampling = SamplingOptions(seed=3, max_tokens=8, logit_bias=list(bias))
    return ChatModelLoader(options, PromptOptions(), sampling, Speculator(SpeculationOptions()), {})


def without_times(event: Event) -> object:
    if isinstance(event, Prefill):
        return event.tokens
    return (event.reason, event.text) if isinstance(event, Finish) else event


def test_a_saved_chat_is_the_same(
    server: TestServer, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    run = ["chat", "-m", model, "-n", "6", "--seed", "4", "-s", "Be brief.", "--probs", "--top", "1"]
    before = server.server.service.requests
    warm, cold = (llm(*run, *more, stdin=b"Hi") for more in ([], ["--server", "off"]))
    assert (warm.returncode, warm.stdout) == (0, cold.stdout) and warm.stdout
    assert warm.stderr == cold.stderr
    assert server.server.service.requests > before
    for path, more in zip(conversation_files(ANY), ([], ["--server", "off"]), strict=True):
        assert llm("chat", "--resume", path.stem, "-n", "6", "--seed", "4", *more, stdin=b"And?").returncode == 0
    trees = [read_conversation(path)[0] for path in conversation_files(ANY)]
    one, other = ([(node.text, node.ids, node.prompt_tokens, node.reason) for node in tree.path()] for tree in trees)
    assert one == other and len(one) == 4


def test_events_and_errors_are_those_of_an_engine(server: TestServer, model: Path) -> None:
    warm, cold = (loader(model, mode, "97+1.5", "98-inf").first() for mode in ("auto", "off"))
    for text, begun in (("a", ()), ("b", ()), ("c", (97, 99))):
        events = [
            list(map(without_times, chat.conversation.ask(text, chat.params, begun=begun, probabilities=True, top=2)))
            for chat in (warm, cold)
        ]
        assert events[0] == events[1]
    assert [event.id for event in events[0] if isinstance(event, Step)][:2] == [97, 99]
    assert warm.conversation.messages == cold.conversation.messages
    for chat in (warm, cold):
        with pytest.raises(PromptTooLongError):
            chat.conversation.ask("x" * 900, chat.params)


def test_ctrl_c_ends_a_reply_and_keeps_what_was_said(server: TestServer, model: Path) -> None:
    chat, interruption = loader(model, "auto").first(), Interruption()
    params = replace(chat.params, max_tokens=300)
    events = chat.conversation.ask("Hi", params, interruption=interruption)
    first = [next(events) for _ in range(4)]
    interruption.request()
    rest = list(events)
    assert isinstance(rest[-1], Finish) and rest[-1].reason == "interrupted"
    steps = [event for event in [*first, *rest] if isinstance(event, Step)]
    assert rest[-1].stats.generated_tokens == len(steps) < 300
    assert chat.conversation.last_reply == tuple(step.id for step in steps)


def test_a_look_into_the_model_loads_it(server: TestServer, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = loader(model, "auto").first()
    list(chat.conversation.ask("Hi", chat.params))
    assert capsys.readouterr().err == ""
    ids = [*chat.conversation.last_prompt, *chat.conversation.last_reply[:2]]
    logits = chat.conversation.engine.next_logits(ids, prompt=len(chat.conversation.last_prompt))
    assert int(logits.argmax()) < chat.loaded.tokenizer.vocab_size
    assert "is loaded in this process for this" in capsys.readouterr().err
    assert chat.loaded.stop_ids == llmcli.load(model).stop_ids


def test_a_chat_goes_on_when_the_server_is_gone(
    server: TestServer, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = loader(model, "auto").first()
    list(chat.conversation.ask("Hi", chat.params))
    server.server.service.ready, ready = None, server.server.service.ready
    try:
        events = list(chat.conversation.ask("And?", chat.params))
    finally:
        server.server.service.ready = ready
    assert isinstance(events[-1], Finish) and events[-1].stats.generated_tokens > 0
    assert "is loaded in this process for this." in capsys.readouterr().err
    assert os.getpid() == server.state.pid


def test_a_server_that_has_replaced_another_is_asked_if_it_holds_the_model(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = identity_of(WantedModel(str(model)))
    assert identity is not None
    with serving(llmcli.load(model), identity=identity):
        chat = loader(model, "auto").first()
        list(chat.conversation.ask("Hi", chat.params))
    with serving(llmcli.load(model), identity=identity) as second:
        list(chat.conversation.ask("Hi", chat.params))
        assert second.server.service.requests == 1
    assert capsys.readouterr().err == ""
    with serving(llmcli.load(model), identity=replace(identity, dtype="float16")) as other:
        list(chat.conversation.ask("Hi", chat.params))
        assert other.server.service.requests == 0
    said = capsys.readouterr().err
    assert said.startswith(f"The server {model.name} has ended.\n") and "is loaded in this process" in said


def test_a_server_that_ends_during_a_reply_is_an_error_with_advice(model: Path) -> None:
    identity = identity_of(WantedModel(str(model)))
    assert identity is not None
    with canned_server(identity) as server:
        server.answers = [OK + line(begin_value(BEGIN)) + line(event_value(Step(0, 97, "a"), lambda token: b"a"))]
        chat = loader(model, "auto").first()
        with pytest.raises(LlmcliError, match=r"ended during the reply\. .*; /retry asks again\."):
            list(chat.conversation.ask("Hi", chat.params))
    assert chat.conversation.messages[-1].content == "a"


@pytest.mark.slow
def test_a_chat_imports_no_torch(server: TestServer, model: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from llmcli.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print([name for name in ('torch', 'numpy') if name in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "chat", "-m", str(model), "-n", "2", "--dry-multiplier", "1"],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        input="Hi", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0 and run.stdout, run.stderr
    assert run.stderr.splitlines()[-1] == "[]"
