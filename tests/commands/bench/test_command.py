"""`llm bench` as a user runs it, on tiny models."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from llmcli.bench.results import Failure, Measurement
from llmcli.bench.run import ArmDescription, Benchmark, Event, WorkStarted
from llmcli.commands.bench.command import bench
from llmcli.commands.shared.settings_file import CommandsWithSettings, default_map
from llmcli.paths import settings_path
from tests.support.manual import absent, undocumented
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

ALONE = {"LLMCLI_THREADS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama", max_position_embeddings=100)


@pytest.mark.slow
def test_a_complete_benchmark(model: Path, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    arguments = ("--quick", "--rounds", 1, "--against", "llama.cpp", "--json", "--html", page)
    result = llm("bench", model, *arguments, env=ALONE)
    told = result.stderr.decode()
    found = json.loads(result.stdout)
    assert result.returncode == 0, told
    assert found["schema"] == "llmcli.bench/1"
    assert undocumented("llmcli.bench/1", found) == absent("llmcli.bench/1", found) == set()
    assert found["settings"] == {
        "device": "cpu", "dtype": "auto", "threads": 1, "rounds": 1,
        "prefill": [], "contexts": [0], "decoded_tokens": 16, "quantize": None,
        "kv_cache": "auto", "tensor_parallel": 1,
    }  # fmt: skip
    assert found["model"]["name"] == "tiny"
    assert {one["measure"] for one in found["measurements"] if one["arm"] == "llmcli"} == {
        "first_token_warm_s", "exit_warm_s", "decode_tokens_per_s", "default_decode_tokens_per_s",
        "peak_memory_short_bytes", "peak_memory_bytes",
    }  # fmt: skip
    assert {one["measure"] for one in found["measurements"] if one["arm"] == "machine"} == {
        "import_torch_s", "import_torch_bytes", "bandwidth_bytes_per_s",
    }  # fmt: skip
    assert all(one["value"] > 0 and one["round"] == 1 for one in found["measurements"])
    assert len(found["summaries"]) == len(found["measurements"])
    # The refused peer is named at once, on the page, and in the JSON.
    (refused,) = found["failures"]
    assert (refused["arm"], refused["round"]) == ("llama.cpp", 0)
    for place in (told, page.read_text()):
        assert "llama" in place
        assert "tokens" in place
    assert refused["message"] in told
    assert "Left out: reading 128 tokens; the model's context holds 100." in told
    assert found["notes"] == ["Left out: reading 128 tokens; the model's context holds 100."]
    assert told.index("round 1 of 1: machine") < told.index("round 1 of 1: llmcli")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--against", "ollama"], 2, "llama.cpp, transformers, transformers-compiled"),
        (["--quantize", "int3"], 2, "cannot be quantized to 'int3'"),
        (["--shape", "llama-3.2-1b"], 2, "takes the place of a model"),
        (["--device", "abacus"], 2, "no device called"),
        (["--dtype", "int3"], 2, "no dtype called"),
        (["--rounds", 0], 2, "--rounds"),
        (["--threads", 0], 2, "--threads"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_measured(
    model: Path, arguments: list[object], code: int, words: str
) -> None:
    result = llm("bench", model, *arguments)
    assert (result.returncode, result.stdout) == (code, b"")
    assert words in result.stderr.decode()
    assert b"round" not in result.stderr.replace(b"--rounds", b"")


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    assert llm("bench", tmp_path / "none").returncode == 3


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (Failure("llmcli", 1, "no luck"), 1, "llmcli: no luck"),
        (Failure("transformers", 1, "no luck"), 0, "transformers: no luck"),
        (KeyboardInterrupt(), 130, "Interrupted: this is what had been measured."),
    ],
)
def test_partial_results_are_shown_after_failures_and_interrupts(
    model: Path, monkeypatch: pytest.MonkeyPatch, end: Failure | KeyboardInterrupt, code: int, words: str
) -> None:
    def run(self: Benchmark) -> Generator[Event, None, None]:
        yield WorkStarted(1, "llmcli", "start")
        yield Measurement("llmcli", 1, "exit_warm_s", None, 1.25)
        yield ArmDescription("llmcli", "by hand")
        if isinstance(end, KeyboardInterrupt):
            raise end
        yield end

    monkeypatch.setattr(Benchmark, "run", run)
    result = llm("bench", model)
    shown = result.stdout.decode()
    assert (result.returncode, "1.25" in shown, "by hand" in shown, words in shown) == (code, True, True, True)


def alive(mark: str) -> list[int]:
    """Ids of processes with the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_ctrl_c_leaves_no_process_behind(model: Path) -> None:
    mark = f"bench-{uuid.uuid4()}"
    env = {**os.environ, **ALONE, "TERM": "xterm", "BENCH_TEST_MARK": mark}
    command = ["-m", "llmcli", "bench", str(model), "--rounds", "1000"]
    child = pexpect.spawn(sys.executable, command, env=env, timeout=60, encoding="utf-8", dimensions=(40, 120))
    try:
        child.expect("round 1/1000 machine")
        assert len(alive(mark)) == 2
        child.sendintr()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130
        assert "Traceback" not in child.before
        deadline = time.monotonic() + 5
        while alive(mark) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(mark) == []
    finally:
        child.close(force=True)


def test_bench_flags_can_be_set_in_the_settings_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings_path().parent.mkdir()
    settings_path().write_text('device = "cpu"\n[bench]\nrounds = 6\nagainst = "transformers"\n')
    assert default_map(CommandsWithSettings((bench,), {}))["bench"] == {
        "device": "cpu",
        "rounds": 6,
        "against": "transformers",
    }
