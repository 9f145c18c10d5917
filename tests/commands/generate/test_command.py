"""`llm generate` as a user runs it: in a separate process, tested by its streams and exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forked import ForkedProcess
from tests.support.models.puppet import ASSISTANT, END, chain, loop, write_puppet
from tests.support.models.tiny import SPECIALS, edit_config, write_text_files
from tests.support.terminal.cli import llm, start


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate home, so that no settings of the machine reach the test; compiled kernels are shared."""
    for name in [name for name in os.environ if name.startswith(("LLMCLI_", "XDG_")) and name != "XDG_CACHE_HOME"]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


@pytest.fixture
def speaker(tmp_path: Path) -> Path:
    return write_puppet(tmp_path / "speaker", chain("Hé 😀!".encode()))


@pytest.mark.usefixtures("home")
class TestGenerate:
    def test_stdout_is_the_answer_and_a_newline_or_its_bytes_alone(self, speaker: Path) -> None:
        flags = ["generate", "hi", "-m", speaker, "-t", 0]
        result = llm(*flags)
        assert (result.stdout.decode(), result.stderr.decode(), result.returncode) == ("Hé 😀!\n", "", 0)
        assert llm(*flags, "--no-newline").stdout.decode() == "Hé 😀!"
        assert llm(*flags, env={"LLMCLI_NO_NEWLINE": "1"}).stdout.decode() == "Hé 😀!"

    def test_an_empty_reply_writes_nothing_and_a_final_newline_is_not_doubled(self, tmp_path: Path) -> None:
        said = write_puppet(tmp_path / "line", chain(b"ab\n"))
        flags = ["generate", "hi", "-m", said, "-t", 0]
        assert [llm(*flags, *more).stdout for more in ((), ("--stop", "a"), ("--stop", "b"))] == [b"ab\n", b"", b"a\n"]
        assert llm(*flags, "--stop", "b", "--no-newline").stdout == b"a"
        assert llm(*flags, "--prefill", "a", "--stop", "b").stdout == b"a\n"

    @pytest.mark.parametrize(
        ("argument", "stdin", "prompt"),
        [
            ("hi", b"", "hi"),
            (None, b"hi\n", "hi"),
            ("-", b"hi\n", "hi"),
            ("Summarise:", b"a\r\nb\n", "Summarise:\n\na\nb"),
            ("x", b"\xef\xbb\xbfa\xc3\xa9", "x\n\naé"),
            ("x", "\ufeffé\r\n".encode("utf-16-le"), "x\n\né"),
        ],
    )
    def test_prompt_and_pipe_are_joined(self, speaker: Path, argument: str | None, stdin: bytes, prompt: str) -> None:
        arguments = ["generate", "-m", speaker, "--json", "-t", 0] + ([] if argument is None else [argument])
        assert json.loads(llm(*arguments, stdin=stdin).stdout)["prompt"] == prompt

    def test_it_runs_without_numpy(self, speaker: Path) -> None:
        # torch does not depend on it, so a fresh installation does not have it.
        code = "import sys; sys.modules['numpy'] = None; from llmcli.__main__ import run; run()"
        arguments = ["generate", "hi", "-m", str(speaker), "-t", "0", "--top", "2", "--json"]
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, check=True, timeout=120, input=b""
        )
        assert (json.loads(result.stdout)["text"], result.stderr) == ("Hé 😀!", b"")

    def test_a_generate_process_does_not_import_numpy(self, speaker: Path) -> None:
        code = (
            "import atexit, sys; from llmcli.__main__ import run\n"
            "atexit.register(lambda: print(sys.modules['numpy'], 'torch' in sys.modules))\n"
            "run()"
        )
        arguments = ["generate", "hi", "-m", str(speaker), "-t", "0"]
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, check=True, timeout=120, input=b""
        )
        assert (result.stdout.decode(), result.stderr) == ("Hé 😀!\nNone True\n", b"")

    def test_json_has_every_documented_field(self, speaker: Path) -> None:
        result = llm("generate", "hi", "-m", speaker, "--json", "--top", 2, "--seed", 5, "-n", 7)
        reply = json.loads(result.stdout)
        assert set(reply) == {
            "model", "prompt", "prompt_tokens", "text", "thinking", "finish_reason", "seed", "tokens", "stats",
        }  # fmt: skip
        assert (reply["model"], reply["seed"], reply["finish_reason"]) == ("speaker", 5, "length")
        assert reply["text"] == "".join(token["text"] for token in reply["tokens"])
        token = reply["tokens"][0]
        assert set(token) == {
            "index", "id", "text", "thinking", "bytes", "logprob", "entropy", "rank", "sampled_prob", "top",
            "attention", "origin",
        }  # fmt: skip
        fields = {"id", "text", "bytes", "logprob", "sampled_prob", "removed_by"}
        assert [set(candidate) for candidate in token["top"]] == [fields] * 2
        assert set(reply["stats"]) >= {
            "cached_tokens", "ttft_s", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_memory_bytes", "path",
        }  # fmt: skip

    def test_jsonl_is_one_event_a_line(self, speaker: Path) -> None:
        result = llm("generate", "hi", "-m", speaker, "--jsonl", "-t", 0)
        events = [json.loads(line) for line in result.stdout.splitlines()]
        assert [event["event"] for event in events] == ["prefill", *["step"] * 9, "finish"]
        assert "".join(event.get("text", "") for event in events) == "Hé 😀!"
        assert events[-1]["finish_reason"] == "stop"

    def test_stop_strings_and_prefill(self, speaker: Path) -> None:
        assert llm("generate", "hi", "-m", speaker, "-t", 0, "--stop", "z", "--stop", "😀").stdout.decode() == "Hé \n"
        assert llm("generate", "hi", "-m", speaker, "-t", 0, "--prefill", "H").stdout.decode() == "Hé 😀!\n"

    def test_show_prompt_shows_that_user_text_has_no_control_tokens(self, speaker: Path) -> None:
        result = llm("generate", "<|end|>", "-m", speaker, "--show-prompt", "-n", 1, "--no-color")
        rows = [line.split() for line in result.stderr.decode().splitlines()[1:]]
        tokens = [row[2] for row in rows]
        assert tokens == ["<|bos|>", "<|user|>", *"<|end|>", "<|end|>", "<|assistant|>"]
        assert [len(row) for row in rows] == [4, 4, *[3] * 7, 4, 4]
        assert b"<|end|>" not in llm("generate", "<|end|>", "-m", speaker, "--raw", "--show-prompt", "-n", 1).stderr

    def test_probabilities_in_a_pipe_are_a_table_on_stderr(self, speaker: Path) -> None:
        result = llm("generate", "hi", "-m", speaker, "-t", 0, "--probs", "--top", 2)
        assert result.stdout.decode() == "Hé 😀!\n"
        table = result.stderr.decode()
        assert "100.0%" in table and "could have been" in table and "\x1b" not in table

    def test_stats_name_the_path_that_ran(self, speaker: Path) -> None:
        line = llm("generate", "hi", "-m", speaker, "--stats").stderr.decode()
        for part in ("prompt 6 tokens", "first token", "tok/s", "peak memory"):
            assert part in line
        assert "cpu kernel (" in line or "readable model, cpu" in line

    def test_a_base_model_continues_text_and_says_so(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "base", loop(b"abc"))
        write_text_files(folder, template=None)
        result = llm("generate", "ab", "-m", folder, "-t", 0, "-n", 4)
        assert result.stdout == b"cabc\n"
        assert b"no chat template" in result.stderr
        assert llm("generate", "ab", "-m", folder, "-t", 0, "-n", 4, "--raw").stderr == b""
        assert llm("generate", "ab", "-m", folder, "-s", "x").returncode == 2

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (["hi", "-m", "/nowhere/model"], 3, "/nowhere/model"),
            (["hi", "--temperature", "-1"], 2, "temperature"),
            (["hi", "--context", "100000", "-m", "{model}"], 2, "512"),
            (["x" * 600, "-m", "{model}"], 6, "512"),
            (["hi", "--device", "toaster", "-m", "{model}"], 2, "toaster"),
            (["hi", "--dtype", "int3", "-m", "{model}"], 2, "int3"),
            (["hi", "--raw", "-s", "x", "-m", "{model}"], 2, "--raw"),
            (["", "-m", "{model}"], 2, "empty"),
            (["hi", "--no-such-flag"], 2, "no-such-flag"),
        ],
    )
    def test_errors_are_sentences_with_the_right_code(
        self, speaker: Path, arguments: list[str], code: int, sentence: str
    ) -> None:
        result = llm("generate", *[argument.format(model=speaker) for argument in arguments])
        assert result.returncode == code
        assert result.stdout == b""
        assert sentence in result.stderr.decode()
        assert "Traceback" not in result.stderr.decode()

    def test_a_broken_checkpoint_is_exit_code_4(self, speaker: Path) -> None:
        weights = speaker / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        result = llm("generate", "hi", "-m", speaker)
        assert result.returncode == 4
        assert "model.safetensors" in result.stderr.decode()

    def test_flag_beats_variable_beats_file_beats_model(self, home: Path, speaker: Path) -> None:
        def seed(*flags: object, **variables: str) -> int:
            return int(json.loads(llm("generate", "hi", "--json", "-n", 1, *flags, env=variables).stdout)["seed"])

        (home / "config" / "llmcli").mkdir(parents=True)
        config = home / "config" / "llmcli" / "config.toml"
        config.write_text(f'model = "{speaker}"\nseed = 1\n[chat]\nseed = 9\n')
        assert seed() == 1
        assert seed(LLMCLI_SEED="2") == 2
        assert seed("--seed", 3, LLMCLI_SEED="2") == 3
        config.write_text("tempreature = 1\n")
        result = llm("generate", "hi", "-m", speaker)
        assert result.returncode == 2
        assert (
            "config.toml, line 1: 'tempreature' is not a setting; did you mean 'temperature'" in result.stderr.decode()
        )

    def test_recommended_settings_apply_unless_overridden(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "m", {ASSISTANT: {65: 0.6, 66: 0.4}})
        (folder / "generation_config.json").write_text('{"temperature": 0.5, "top_k": 0, "top_p": 1.0}')
        token = json.loads(llm("generate", "hi", "-m", folder, "--json", "-n", 1).stdout)["tokens"][0]
        expected = {65: 0.36 / 0.52, 66: 0.16 / 0.52}[token["id"]]
        assert token["sampled_prob"] == pytest.approx(expected, rel=1e-2)

    def test_a_recommendation_of_greedy_decoding_is_followed(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "m", {ASSISTANT: {65: 0.6, 66: 0.4}})
        (folder / "generation_config.json").write_text('{"do_sample": false, "max_new_tokens": 0}')

        def probability(*flags: object) -> float:
            reply = json.loads(llm("generate", "hi", "-m", folder, "--json", "-n", 1, "--seed", 1, *flags).stdout)
            return float(reply["tokens"][0]["sampled_prob"])

        assert probability() == 1
        assert probability("--repeat-penalty", 1.01) == 1
        assert probability("--temperature", 1, "--top-p", 1) == pytest.approx(0.6, rel=0.4)
        # A filter asks for sampling: at temperature 0 it would have no effect.
        assert probability("--top-k", 5, "--top-p", 1) < 0.8

    def test_contradicting_files_about_unused_tokens_are_noted_once(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "m", chain(b"ok"))
        rows = 256 + len(SPECIALS)
        edit_config(folder, {"eos_token_id": [50256, END], "bos_token_id": -1, "pad_token_id": 99999})
        (folder / "added_tokens.json").write_text(json.dumps({"<pad>": rows, "<old>": 7}))
        (folder / "special_tokens_map.json").write_text("{")
        result = llm("generate", "hi", "-m", folder)
        assert (result.returncode, result.stdout) == (0, b"ok\n")
        told = " ".join(result.stderr.decode().split())
        for words in (
            "declares 50256 as a stop token",
            "disagree with it about '<old>'",
            "not used: '<pad>'",
            "map.json is not",
        ):
            assert told.count(words) == 1, words

    def test_a_closed_pipe_exits_silently_with_141(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "m", loop(b"ab\n"), context=100_000)
        process = start("generate", "hi", "-m", folder)
        assert process.stdout.readline() == b"ab\n"
        process.stdout.close()
        with process:
            assert process.stderr.read() == b""
        assert process.returncode == 141

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_failed_write_changes_the_exit_code(self, speaker: Path) -> None:
        with Path("/dev/full").open("wb") as full:
            process = ForkedProcess(["generate", "hi", "-m", speaker], os.environ, stdout=full.fileno())
            _, err = process.communicate(timeout=60)
        assert (process.returncode, len(err.splitlines())) == (1, 1)

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals_set_the_exit_code(self, tmp_path: Path, number: int, code: int) -> None:
        folder = write_puppet(tmp_path / "m", loop(b"abc "), context=100_000)
        process = start("generate", "hi", "-m", folder)
        assert process.stdout.read(4) == b"abc "
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (code, b"")
        # The text before Ctrl-C ends with a newline.
        assert out.endswith(b"\n") or number == signal.SIGTERM

    def test_an_interrupted_reply_is_still_valid_json(self, tmp_path: Path) -> None:
        folder = write_puppet(tmp_path / "m", loop(b"abc\n"), context=100_000)
        process = start("generate", "hi", "-m", folder, "--jsonl")
        lines = [process.stdout.readline() for _ in range(10)]
        process.send_signal(signal.SIGINT)
        lines += process.communicate(timeout=60)[0].splitlines()
        assert json.loads(lines[-1])["finish_reason"] == "interrupted"
        assert process.returncode == 130
