"""`llm batch` as a script runs it: input and output lines, and resuming after an interrupt."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llmcli.commands.batch.answers import MOST_PARALLEL
from llmcli.engine.batch.backend import MOST_ROWS
from tests.support.models.puppet import chain, loop, write_puppet
from tests.support.models.tiny import write_text_files
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm, start


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "llama")


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def results(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


TASKS: list[object] = [
    {"prompt": "one", "id": "a"},
    "",
    {"messages": [{"role": "system", "content": "Be odd."}, {"role": "user", "content": "two"}], "max_tokens": 3},
    {"prompt": "three", "temperature": 1.5, "seed": 7, "id": 3},
    {"prompt": "four", "stop": list("abcdefghijklmnopqrstuvwxyz"), "top_k": None},
]


@pytest.mark.parametrize("parallel", [1, 2, "auto"])
def test_results_equal_generate_and_keep_the_order(model: Path, tmp_path: Path, parallel: object) -> None:
    file = write(tmp_path / "in.jsonl", TASKS)
    flags = ["-m", model, "-t", 0, "-n", 9, "--seed", 5]
    result = llm("batch", file, *flags, "--parallel", parallel)
    assert (result.returncode, result.stderr) == (0, b"")
    found = results(result.stdout)
    assert [(one["index"], one["id"]) for one in found] == [(0, "a"), (1, None), (2, 3), (3, None)]
    alone = [
        llm("generate", "one", *flags, "--json"),
        llm("generate", "two", *flags, "--json", "-s", "Be odd.", "-n", 3),
        llm("generate", "three", *flags, "--json", "-t", 1.5, "--seed", 7),
        llm("generate", "four", *flags, "--json", *[x for c in "abcdefghijklmnopqrstuvwxyz" for x in ("--stop", c)]),
    ]
    for one, other in zip(found, map(json.loads, (run.stdout for run in alone)), strict=True):
        for name in ("model", "prompt_tokens", "text", "thinking", "finish_reason", "seed"):
            assert one[name] == other[name], name
        assert one["generated_tokens"] == other["stats"]["generated_tokens"]
        assert set(one) == {
            "index", "id", "input", "model", "prompt_tokens", "generated_tokens", "text", "thinking",
            "finish_reason", "seed",
        }  # fmt: skip


def test_an_invalid_line_gives_an_error_result_and_the_batch_continues(model: Path, tmp_path: Path) -> None:
    bad = [
        ("not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"promt": "x"}', "did you mean 'prompt'?"),
        ("{}", 'either a "prompt" or "messages"'),
        ('{"prompt": ""}', "not empty"),
        ('{"prompt": "x", "temperature": "hot"}', '"temperature" must be a number'),
        ('{"prompt": "x", "max_tokens": 2.5}', "whole number"),
        ('{"prompt": "x", "temperature": NaN}', "temperature must be"),
        ('{"prompt": "x", "id": {}}', '"id" must be'),
        ('{"prompt": "x", "stop": [1]}', '"stop" must be'),
        ('{"messages": []}', '"messages" must be a list'),
        ('{"messages": [{"role": "user"}]}', 'Message 1: it has no "content"'),
        (
            '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
            "of the type 'image_url', which is not supported",
        ),
        ('{"prompt": "x", "continue_final_message": true}', 'needs "messages" of which the last is the assistant'),
        ('{"prompt": "x", "tools": []}', "'tools' is not supported: tools cannot be offered to a model yet"),
        ('{"messages": [{"role": "<|end|>", "content": "x"}]}', "known roles are"),
        (json.dumps({"prompt": "x" * 200}), "too long; nothing was cut"),
        ("[" * 100_000, "not JSON"),
    ]
    file = write(tmp_path / "in.jsonl", [line for line, _ in bad])
    with file.open("ab") as more:
        more.write(b'{"prompt": "\xff"}\n{"prompt": "good", "id": "g"}')
    result = llm("batch", file, "-m", model, "-n", 2)
    found = results(result.stdout)
    assert result.returncode == 1 and b"19 of 20 lines could not be answered" in result.stderr
    bad.append(("", "The line is not UTF-8: the byte at offset 12 is 0xff. Say how it is encoded, as in --encoding"))
    for one, (_, why) in zip(found, bad, strict=False):
        assert why in one["error"] and "text" not in one
    assert [one["index"] for one in found] == list(range(20))
    assert found[-1]["id"] == "g" and found[-1]["finish_reason"] == "length"


def test_messages_in_the_form_of_other_programs_are_accepted(model: Path, tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    user = {"role": "user", "content": "two"}
    plain = {"messages": [{"role": "system", "content": "Be odd."}, user]}
    same = [
        {
            "messages": [
                {"role": "developer", "content": "Be odd."},
                {"role": "user", "content": [{"type": "text", "text": "two"}]},
            ]
        },
        {"messages": [plain["messages"][0], user | {"name": None}]},
    ]
    others: list[object] = [
        {
            "messages": [
                user,
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "5"},
            ]
        },
        {"messages": [user, {"role": "assistant", "content": "Once"}]},
        {"messages": [user | {"name": "Ann"}]},
        {"messages": [user, {"role": "assistant", "content": "Once"}], "continue_final_message": False},
    ]
    result = llm("batch", write(tmp_path / "in.jsonl", [plain, *same, *others]), "-m", model, "-t", 0, "-n", 4)
    found = results(result.stdout)
    assert result.returncode == 0 and [one["prompt_tokens"] for one in found[:3]] == [found[0]["prompt_tokens"]] * 3
    assert [one["text"] for one in found[:3]] == [found[0]["text"]] * 3
    # A last message of the assistant is continued, as with generate's --prefill.
    begun = json.loads(llm("generate", "two", "-m", model, "-t", 0, "-n", 4, "--prefill", "Once", "--json").stdout)
    assert (found[4]["prompt_tokens"], f"Once{found[4]['text']}") == (begun["prompt_tokens"], begun["text"])
    assert found[6]["prompt_tokens"] == found[4]["prompt_tokens"] + 2
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 2 and "no form for tool calls" in lines[0] and '"name"' in lines[1]


def test_a_model_without_a_template_continues_prompts_and_takes_no_messages(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "base", loop(b"abc"))
    write_text_files(folder, template=None)
    tasks = [{"prompt": "ab"}, {"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}]
    data = "".join(f"{json.dumps(task)}\n" for task in tasks).encode()
    result = llm("batch", "-", "-m", folder, "-t", 0, "-n", 4, stdin=b"\xef\xbb\xbf" + data)
    found = results(result.stdout)
    assert [one.get("text") for one in found] == ["cabc", "bcab", None]
    assert result.returncode == 1 and "chat template" in found[2]["error"]
    assert result.stderr.count(b"no chat template") == 1
    raw = llm("batch", "-", "-m", folder, "-t", 0, "-n", 4, "--raw", stdin=data)
    assert [one.get("text") for one in results(raw.stdout)] == ["cabc", "bcab", None] and b"template;" not in raw.stderr


def test_stats_say_which_path_ran(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", TASKS)
    result = llm("batch", file, "-m", model, "-n", 3, "--stats", "--parallel", 4)
    line, found = result.stderr.decode(), results(result.stdout)
    assert line.startswith(f"4 replies · read {sum(one['prompt_tokens'] for one in found)} tokens at ")
    assert f" wrote {sum(one['generated_tokens'] for one in found)} tokens at " in line
    assert line.strip().endswith("4 texts at a time")
    assert "cpu kernel (" in line or "readable model, cpu" in line


def test_a_note_says_that_the_readable_model_answers_one_prompt_after_another(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", TASKS)
    one, four = (
        llm("batch", file, "-m", model, "-n", 3, "-t", 0, "--dtype", "float16", "--parallel", parallel)
        for parallel in (1, 4)
    )
    assert not one.stderr
    assert four.stderr.decode().startswith("Replies are generated 1 at a time here: readable model, cpu, float16 (")
    texts = [[result["text"] for result in results(each.stdout)] for each in (one, four)]
    assert texts[0] == texts[1]


@pytest.fixture
def slow(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and prompts of which the first have short replies and the others long ones."""
    folder = write_puppet(tmp_path / "m", loop(b"abc"), context=100_000)
    tasks = [{"prompt": f"{n}", "max_tokens": 2 if n < 4 else 200 + n} for n in range(24)]
    return folder, write(tmp_path / "in.jsonl", list(tasks))


@pytest.mark.slow
@pytest.mark.parametrize(("blow", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_batch_is_resumed(
    slow: tuple[Path, Path], tmp_path: Path, blow: signal.Signals, code: int
) -> None:
    folder, file = slow
    out = tmp_path / "out.jsonl"
    flags = ["batch", file, "-m", folder, "--out", out, "--seed", 1]
    process = start(*flags)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") >= 4):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(blow)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    if blow is signal.SIGINT:
        assert b"the same command continues from there" in err
    kept = out.read_bytes()
    done = kept.count(b"\n")
    assert 4 <= done < 24
    if blow is not signal.SIGKILL:
        return
    # As if the process had been killed in the middle of a line.
    with out.open("ab") as torn:
        torn.write(b'{"index": 4, "id": nul')
    result = llm(*flags)
    assert (result.returncode, result.stdout) == (0, b"")
    assert b"was not written to its end and was cut off" in result.stderr
    assert f"{done} of 24 results are there already".encode() in result.stderr
    assert out.read_bytes().startswith(kept)
    assert results(out.read_bytes()) == results(llm("batch", file, "-m", folder, "--seed", 1).stdout)
    # All results exist: no model is loaded, nothing is written.
    before = out.read_bytes()
    again = llm(*flags)
    assert (again.returncode, b"24 of 24 results" in again.stderr, out.read_bytes()) == (0, True, before)


def test_a_results_file_of_another_run_is_not_changed(model: Path, tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", TASKS), tmp_path / "out.jsonl"
    flags = ["batch", file, "-m", model, "-n", 2, "--out", out, "-q"]
    assert llm(*flags).returncode == 0
    good = out.read_bytes()
    # Another setting; another line; fewer lines; a file of another kind with an incomplete last line.
    for changed in (["-t", 0.5], ["--raw"], ["-s", "x"]):
        result = llm(*flags, *changed)
        assert result.returncode == 2 and b"line 1, is not the result of line 1" in result.stderr
    write(file, [TASKS[0], {"prompt": "other"}, *TASKS[3:]])
    assert b"line 2, is not" in llm(*flags).stderr
    write(file, TASKS[:3])
    assert b"line 3, is not" in llm(*flags).stderr
    assert out.read_bytes() == good
    write(file, TASKS)
    out.write_bytes(b"my own notes\nand more")
    assert llm(*flags).returncode == 2 and out.read_bytes() == b"my own notes\nand more"
    # Errors among the existing results still set the exit code.
    out.unlink()
    write(file, [*TASKS, "bad"])
    assert llm(*flags).returncode == 1
    assert llm(*flags).returncode == 1


def test_invalid_options_are_refused_before_a_model_is_loaded(model: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", TASKS)
    for flags, why in (
        (["--out", file], "is the input"),
        (["--out", tmp_path], "cannot be written"),
        (["--out", tmp_path / "no" / "folder"], "cannot be written"),
        (["--out", "/dev/null"], "cannot be written"),
        (["--parallel", 0], "--parallel must be"),
        (["--parallel", 33], "--parallel must be"),
        (["--parallel", "many"], "--parallel must be"),
        (["--raw", "-s", "x"], "--raw leaves out"),
        (["-t", -1], "temperature must be"),
    ):
        result = llm("batch", file, "-m", model, *flags)
        assert (result.returncode, result.stdout) == (2, b"") and why in result.stderr.decode(), why
    assert llm("batch", tmp_path / "nowhere", "-m", model).returncode == 2
    assert MOST_PARALLEL == MOST_ROWS


@pytest.mark.skipif(os.name != "posix", reason="files are locked as POSIX does it")
def test_only_one_process_writes_a_results_file(tmp_path: Path) -> None:
    folder = write_puppet(tmp_path / "m", loop(b"abc"), context=100_000)
    # The second reply is so long that the test finds the process running.
    file = write(tmp_path / "in.jsonl", [{"prompt": "a", "max_tokens": 2}, {"prompt": "b", "max_tokens": 99_000}])
    out = tmp_path / "out.jsonl"
    process = start("batch", file, "-m", folder, "--out", out)
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_bytes()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    second = llm("batch", file, "-m", folder, "--out", out)
    process.kill()
    process.communicate(timeout=60)
    assert second.returncode == 1 and b"is being written by another llm batch" in second.stderr


def test_settings_can_come_from_variables_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_puppet(tmp_path / "m", chain(b"abcdef"))
    config = tmp_path / "config" / "llmcli" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("max_tokens = 4\n[batch]\nparallel = '3'\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    result = llm("batch", "-", "-m", folder, "--stats", stdin=b'{"prompt": "x"}')
    assert results(result.stdout)[0]["text"] == "abcd" and b"3 texts at a time" in result.stderr
    variables = {"LLMCLI_MAX_TOKENS": "2", "LLMCLI_PARALLEL": "1"}
    assert results(llm("batch", "-", "-m", folder, stdin=b'{"prompt": "x"}', env=variables).stdout)[0]["text"] == "ab"
