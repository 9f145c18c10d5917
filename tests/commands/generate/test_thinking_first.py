"""Forms, choices, stop strings and prefills apply to the answer of a reasoning model, not to its thought."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import llmcli
from llmcli.engine import Conversation, Finish, SamplingParams, Step
from llmcli.engine.batch.results import BatchReply
from llmcli.errors import LlmcliError
from tests.support.models.puppet import write_thinker
from tests.support.terminal.cli import llm


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that think "Hm, 2." and answer "Yes!": one opens the thought itself, for one the template does."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_thinker(folder / name, b"Hm, 2.", b"Yes!", opened=opened)
        for name, opened in (("itself", ""), ("template", "[THINK]"))
    }


@pytest.fixture(params=["itself", "template"])
def thinker(models: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return models[request.param]


def reply(model: Path, *flags: object) -> tuple[str | None, str, str]:
    """The thought, the answer, and the reason why the reply ended."""
    result = llm("generate", "hi", "-m", model, "-t", 0, "--json", *flags)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    return found["thinking"], found["text"], found["finish_reason"]


FORMS = (["--regex", "Y[a-z]+!?"], ["--grammar", 'start: "No" | "Yes!"'])


@pytest.mark.parametrize("form", FORMS, ids=["regex", "grammar"])
def test_a_form_begins_after_the_thought(thinker: Path, form: list[str]) -> None:
    pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
    assert reply(thinker, *form) == ("Hm, 2.", "Yes!", "stop")
    result = llm("generate", "hi", "-m", thinker, "-t", 0, *form)
    assert (result.stdout, result.stderr) == (b"Yes!\n", b"Hm, 2.\n\n")


def test_a_reply_without_an_answer_is_an_error(thinker: Path) -> None:
    pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
    for form in (["--regex", "(Yes!)?"], ["--choices", "Yes!,No!"]):
        result = llm("generate", "hi", "-m", thinker, "-t", 0, "-n", 6, *form)
        assert (result.returncode, result.stdout) == (1, b"")
        assert b"The answer never began: the 6 tokens of -n were used up by the thought." in result.stderr
    # The token limit suffices for the form, but not after the thought.
    result = llm("generate", "hi", "-m", thinker, "-t", 0, "-n", 9, "--regex", "Yes!")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"left after the thought; allow more with -n" in result.stderr


def test_no_thinking_gives_the_answer_at_once(models: dict[str, Path]) -> None:
    assert reply(models["template"], "--no-thinking") == (None, "Yes!", "stop")
    result = llm("generate", "hi", "-m", models["itself"], "-t", 0, "--no-thinking")
    assert result.stdout == b"Yes!\n" and b"the model may still think" in result.stderr


def test_no_thinking_applies_the_form_from_the_first_token(models: dict[str, Path]) -> None:
    pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
    assert reply(models["template"], "--no-thinking", "--regex", "Y[a-z]+!") == (None, "Yes!", "stop")
    thinking, text, _ = reply(models["itself"], "--no-thinking", "--regex", "[ab]c")
    assert thinking is None and text in ("ac", "bc")


def test_thought_marks_inside_a_form_are_part_of_it(models: dict[str, Path]) -> None:
    pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
    thinking, text, _ = reply(models["itself"], "--regex", r"\[THINK\]x\[/THINK\]Yes!")
    assert (thinking, text) == (None, "[THINK]x[/THINK]Yes!")


def test_choices_are_compared_after_the_thought(thinker: Path) -> None:
    flags = ["generate", "hi", "-m", thinker, "-t", 0, "--choices", "No!,Yes!"]
    result = llm(*flags)
    assert (result.stdout, result.stderr) == (b"Yes!\n", b"Hm, 2.\n\n")
    found = json.loads(llm(*flags, "--json").stdout)
    assert (found["thinking"], found["choice"]) == ("Hm, 2.", "Yes!")
    assert found["covered"] > 0.99 and found["seed"] is not None
    assert [token["text"] for token in found["choices"][0]["tokens"]] == [*"Yes!"]


def test_no_thinking_compares_choices_at_once(models: dict[str, Path]) -> None:
    flags = ["generate", "hi", "-t", 0, "--json", "--choices", "No!,Yes!", "-m"]
    found = json.loads(llm(*flags, models["template"], "--no-thinking").stdout)
    assert (found["thinking"], found["choice"]) == (None, "Yes!") and found["covered"] > 0.99
    found = json.loads(llm(*flags, models["itself"], "--no-thinking", "-q").stdout)
    # All it would do is think.
    assert found["thinking"] is None and found["covered"] < 0.01


def test_stop_strings_end_the_answer_and_not_the_thought(thinker: Path) -> None:
    assert reply(thinker, "--stop", "2", "--stop", "s") == ("Hm, 2.", "Ye", "stop_string")
    assert reply(thinker, "--stop", "2") == ("Hm, 2.", "Yes!", "stop")
    assert reply(thinker, "--stop", "2", "--stop-in-thinking") == ("Hm, ", "", "stop_string")


def test_thinking_options_can_be_set_in_the_settings_file(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "llmcli").mkdir()
    (tmp_path / "llmcli" / "config.toml").write_text("stop-in-thinking = true\n[batch]\nno_thinking = true\n")
    assert reply(models["itself"], "--stop", "2") == ("Hm, ", "", "stop_string")
    for command in ("generate", "chat", "batch"):
        told = llm("config", command).stdout.decode()
        assert "stop-in-thinking" in told and "no-thinking" in told


def test_a_prefill_is_the_beginning_of_the_answer(models: dict[str, Path]) -> None:
    for model in models.values():
        assert reply(model, "--prefill", "Y") == (None, "Yes!", "stop")
        assert reply(model, "--prefill", "Y", "--stop", "s") == (None, "Ye", "stop_string")
    assert reply(models["template"], "--prefill", "[THINK]H", "--stop", "2") == ("Hm, 2.", "Yes!", "stop")
    result = llm("generate", "hi", "-m", models["template"], "-t", 0, "--prefill", "[THINK]H")
    assert result.stdout == b"Yes!\n" and b"the chat template opens is not closed" in result.stderr


def test_a_form_continues_the_answer_in_a_prefill(models: dict[str, Path]) -> None:
    pytest.importorskip("llguidance", reason="the extra 'constrain' is not installed")
    assert reply(models["template"], "--prefill", "Y", "--regex", "Y[a-z]+!") == (None, "Yes!", "stop")
    assert reply(models["template"], "--prefill", "[THINK]H", "--regex", "Y[a-z]+!") == ("Hm, 2.", "Yes!", "stop")


def test_stop_strings_in_a_batch_apply_to_the_answer(thinker: Path, tmp_path: Path) -> None:
    lines = [
        {"prompt": "hi", "stop": ["2", "s"]},
        {"prompt": "hi", "stop": ["2"], "stop_in_thinking": True},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Y"}], "stop": "s"},
        {"prompt": "hi", "stop_in_thinking": 1},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = llm("batch", file, "-m", thinker, "-t", 0)
    *found, wrong = map(json.loads, result.stdout.splitlines())
    assert [(each["thinking"], each["text"], each["finish_reason"]) for each in found] == [
        ("Hm, 2.", "Ye", "stop_string"),
        ("Hm, ", "", "stop_string"),
        (None, "e", "stop_string"),
    ]
    assert "true or false" in wrong["error"]


def test_no_thinking_in_a_batch(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"prompt": "hi"}\n')
    result = json.loads(llm("batch", file, "-m", models["template"], "-t", 0, "--no-thinking").stdout)
    assert (result["thinking"], result["text"]) == (None, "Yes!")


@pytest.mark.parametrize("flags", [["--stop", "2"], ["--stop", "2", "--stop-in-thinking"], ["--prefill", "Y"]])
def test_replay_reproduces_a_run_with_a_thought(thinker: Path, tmp_path: Path, flags: list[str]) -> None:
    file = tmp_path / "run.json"
    assert llm("generate", "hi", "-m", thinker, "-t", 0, "--record", file, *flags).returncode == 0
    assert llm("replay", file).returncode == 0
    run = json.loads(file.read_text())
    if run["settings"]["stop"] and not run["settings"]["stop_in_thinking"]:
        return
    # The format of older records, made when stop strings ended thoughts too.
    del run["start"], run["settings"]["stop_in_thinking"]
    file.write_text(json.dumps(run))
    assert llm("replay", file).returncode == 0


def test_stop_strings_in_a_conversation_apply_to_the_answer(models: dict[str, Path]) -> None:
    for path, no_thinking, expected in (
        (models["itself"], False, "[THINK]Hm, 2.[/THINK]Ye"),
        (models["template"], False, "Hm, 2.[/THINK]Ye"),
        (models["template"], True, "Ye"),
    ):
        loaded = llmcli.load(path, dtype="float32")
        assert loaded.template is not None
        talk = Conversation(loaded.engine(), loaded.tokenizer, loaded.template, no_thinking=no_thinking)
        *steps, finish = talk.ask("hi", SamplingParams(temperature=0, stop=("2", "s")))
        assert isinstance(finish, Finish) and finish.reason == "stop_string"
        assert "".join(step.text for step in steps if isinstance(step, Step)) + finish.text == expected


def test_the_python_api_separates_thought_and_answer(models: dict[str, Path]) -> None:
    for path in models.values():
        model = llmcli.load(path, dtype="float32")
        reply = model.generate("hi", temperature=0, stop=("2", "s"))
        assert (reply.thinking, reply.text, reply.finish_reason) == ("Hm, 2.", "Ye", "stop_string")
        reply = model.generate("hi", temperature=0, stop=("2",), stop_in_thinking=True)
        assert (reply.thinking, reply.text, reply.finish_reason) == ("Hm, ", "", "stop_string")
        assert model.chat(temperature=0, stop=("2", "s")).send("hi").text == "Ye"
        (answer,) = model.batch(["hi"], temperature=0, stop=("2", "s"))
        assert isinstance(answer, BatchReply) and (answer.thinking, answer.text) == ("Hm, 2.", "Ye")
        prefilled = model.generate("hi", temperature=0, prefill="Y", stop=("s",))
        assert (prefilled.thinking, prefilled.text) == ("", "e")
    unthinking = (
        model.generate("hi", temperature=0, no_thinking=True),
        model.chat(temperature=0, no_thinking=True).send("hi"),
        *model.batch(["hi"], temperature=0, no_thinking=True),
    )
    for each in unthinking:
        assert not isinstance(each, LlmcliError) and (each.thinking, each.text) == ("", "Yes!")
