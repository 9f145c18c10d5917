"""The Python API of a loaded model: replies, conversations and batches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import llmcli
from llmcli import Finish, LlmcliError, LoadedModel, Message, Reply, SamplingParams, Step
from llmcli.engine.batch.results import BatchReply
from tests.support.models.puppet import write_thinker
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

Prompt: TypeAlias = str | Sequence[Message | Mapping[str, object]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("api") / "model", "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return llmcli.load(folder)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"temperature": 0}, ["-t", "0"]),
        ({"seed": 1}, ["--seed", "1"]),
        ({"seed": 7, "top_k": 5, "repeat_penalty": 1.3}, ["--seed", "7", "--top-k", "5", "--repeat-penalty", "1.3"]),
    ],
)
def test_python_and_the_command_line_give_the_same_text(
    model: LoadedModel, folder: Path, settings: dict[str, Any], flags: list[str]
) -> None:
    reply = model.generate("Hello", max_tokens=12, **settings)
    said = json.loads(llm("generate", "Hello", "-m", str(folder), "-n", "12", "--json", *flags).stdout)
    assert [step.id for step in reply.tokens] == [token["id"] for token in said["tokens"]]
    assert (reply.text, reply.finish_reason) == (said["text"], said["finish_reason"])


def test_recommended_settings_apply_unless_overridden(folder: Path, tmp_path: Path) -> None:
    copy = tiny_checkpoint(tmp_path / "recommended", "llama")
    (copy / "generation_config.json").write_text(json.dumps({"temperature": 0.3, "top_p": 0.5}))
    loaded = llmcli.load(copy)
    said = loaded.generate("Hi", seed=3, max_tokens=8)
    assert said.text == loaded.generate("Hi", seed=3, max_tokens=8, temperature=0.3, top_p=0.5).text
    params = SamplingParams(temperature=0.3, top_p=0.5, seed=3, max_tokens=8)
    assert said.text == loaded.generate("Hi", params=params).text


def test_stream_gives_what_generate_collects(model: LoadedModel) -> None:
    events = list(model.stream("Hello", seed=1, max_tokens=5, top=3))
    reply = model.generate("Hello", seed=1, max_tokens=5)
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.id for step in steps] == [step.id for step in reply.tokens]
    assert all(len(step.top) >= 3 and step.logprob is not None for step in steps)
    assert isinstance(events[-1], Finish)
    assert isinstance(reply, Reply)
    assert str(reply) == reply.text
    assert reply.seed == 1


def test_a_text_equals_a_single_user_message(model: LoadedModel) -> None:
    system = {"role": "system", "content": "Be brief."}
    prompts: list[Prompt] = [
        "Hi",
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    ]
    texts = {model.generate(prompt, system="Be brief.", seed=2, max_tokens=8).text for prompt in prompts}
    texts.add(model.generate([system, Message("user", "Hi")], seed=2, max_tokens=8).text)
    assert len(texts) == 1


def test_a_last_message_of_the_assistant_is_continued(model: LoadedModel) -> None:
    messages = [Message("user", "Hi"), Message("assistant", "Hello")]
    assert model.generate(messages, seed=2, max_tokens=8).text == (
        model.generate("Hi", prefill="Hello", seed=2, max_tokens=8).text
    )


def test_raw_text_is_continued_as_it_is(model: LoadedModel, folder: Path) -> None:
    said = json.loads(llm("generate", "Once", "--raw", "-m", str(folder), "-n", "6", "--seed", "4", "--json").stdout)
    assert model.generate("Once", raw=True, seed=4, max_tokens=6).text == said["text"]


@pytest.mark.parametrize(
    ("prompt", "arguments", "words"),
    [
        ("Hi", {"temperature": -1}, "temperature must be 0 or more"),
        ("Hi", {"params": SamplingParams(), "seed": 1}, "seed cannot be given too"),
        ("Hi", {"raw": True, "system": "Be brief."}, "need a chat template"),
        ([{"role": "user", "content": "Hi"}], {"raw": True}, "there can be no messages"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "'image_url', which is not supported"),
    ],
)
def test_invalid_arguments_are_refused_at_once(
    model: LoadedModel, prompt: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(llmcli.UsageError, match=words):
        model.stream(prompt, **arguments)  # type: ignore[arg-type]


def test_thoughts_are_separate_from_the_answer(tmp_path: Path) -> None:
    loaded = llmcli.load(write_thinker(tmp_path / "thinker", b"hm", b"Yes"))
    reply = loaded.generate("Hi", temperature=0)
    said = json.loads(llm("generate", "Hi", "-m", str(tmp_path / "thinker"), "-t", "0", "--json").stdout)
    assert (reply.thinking, reply.text) == (said["thinking"], said["text"])
    assert reply.thinking
    assert "".join(step.thinking for step in reply.tokens) == reply.thinking


def test_a_chat_keeps_its_messages(model: LoadedModel) -> None:
    chat = model.chat(system="Be brief.", seed=1, max_tokens=6)
    first, second = chat.send("Hi"), chat.send("And?")
    assert [(message.role, message.content) for message in chat.messages] == [
        ("user", "Hi"), ("assistant", first.text), ("user", "And?"), ("assistant", second.text),
    ]  # fmt: skip
    assert first.text == model.generate("Hi", system="Be brief.", seed=1, max_tokens=6).text
    assert (first.seed, second.seed) == (1, 2)
    assert second.stats.cached_tokens > 0
    assert chat.take_back() == "And?"
    assert len(chat.messages) == 2
    again = "".join(event.text for event in chat.stream("And?") if isinstance(event, Step | Finish))
    assert chat.messages[-1].content == again


def test_a_chat_continues_from_messages(model: LoadedModel) -> None:
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    reply = model.chat(messages=before, seed=5, max_tokens=6).send("And?")
    assert reply.text == model.generate([*before, Message("user", "And?")], seed=5, max_tokens=6).text
    with pytest.raises(llmcli.UsageError, match="in turn"):
        model.chat(messages=before[:1])


def test_without_a_template_there_is_no_chat(tmp_path: Path) -> None:
    copy = tiny_checkpoint(tmp_path / "base", "llama")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    loaded = llmcli.load(copy)
    assert loaded.template is None
    with pytest.raises(llmcli.UsageError, match="no chat template"):
        loaded.chat()
    assert loaded.generate("Once", seed=1, max_tokens=4).text == (
        loaded.generate("Once", raw=True, seed=1, max_tokens=4).text
    )


def test_a_batch_gives_a_reply_or_an_error_for_each_prompt(model: LoadedModel) -> None:
    prompts: list[Prompt] = ["Hello", [{"role": "user", "content": "Hi"}], "x " * 5000, [{"role": "nobody"}]]
    replies = list(model.batch(iter(prompts), seed=1, max_tokens=6))
    assert [isinstance(reply, LlmcliError) for reply in replies] == [False, False, True, True]
    alone = [model.generate(prompt, seed=1, max_tokens=6).text for prompt in prompts[:2]]
    assert [str(reply) for reply in replies if isinstance(reply, BatchReply)] == alone


def test_an_abandoned_stream_leaves_the_model_usable(model: LoadedModel) -> None:
    for event in model.stream("Hello", seed=1):
        if isinstance(event, Step):
            break
    assert model.generate("Hello", seed=1, max_tokens=3).finish_reason == "length"


def test_the_public_names_are_complete() -> None:
    assert sorted(dir(llmcli)) == sorted(llmcli.__all__)
    assert all(getattr(llmcli, name) is not None for name in llmcli.__all__)
    errors = [getattr(llmcli, name) for name in llmcli.__all__ if name.endswith("Error")]
    assert all(issubclass(error, LlmcliError) for error in errors)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmcli.nothing  # noqa: B018


@pytest.mark.starter
def test_the_example_in_the_package_docstring_runs(tmp_path: Path) -> None:
    doc = llmcli.__doc__ or ""
    lines = [line[4:] for line in doc.splitlines() if line.startswith("    ")]
    script = "\n".join(lines).replace('llmcli.load("owner/name")', "llmcli.load()")
    assert "generate" in script and "stream" in script and "chat" in script
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout) > 20
