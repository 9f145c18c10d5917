"""With a running server, `llm generate` writes what it would write without one, and leaves the work to the server."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import llmcli
from llmcli.client.find import WantedModel, find_server, identity_of
from llmcli.conversations.store import ANY, conversation_files, read_conversation
from llmcli.server.run import ServeSettings
from tests.support.models.puppet import write_thinker
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.server import TestServer, serving
from tests.support.terminal.cli import Result, llm

# Numbers that differ from run to run.
_MEASURED = re.compile(
    r'("(?:ttft_s|\w+_per_s|seconds|peak_memory_bytes|created|\w+_tokens_per_pass|tokens_per_pass|proposed_tokens|'
    r'accepted_tokens|acceptance_rate|speculative_gain)": )[^,}]*'
)
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", max_position_embeddings=600)


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[TestServer]:
    with serve(model) as server:
        yield server


def serve(path: Path, settings: ServeSettings | None = None) -> AbstractContextManager[TestServer]:
    identity = identity_of(WantedModel(str(path)))
    assert identity is not None
    return serving(llmcli.load(path), settings, identity)


def same(text: bytes) -> str:
    return _MEASURED.sub(r"\1", text.decode())


def generate(model: Path, *arguments: object, code: int = 0) -> tuple[Result, Result]:
    """A run that can use the server, and one that cannot."""
    runs = [llm("generate", *arguments, "-m", model, *more) for more in ([], ["--server", "off"])]
    assert [run.returncode for run in runs] == [code, code], [run.stderr for run in runs]
    return runs[0], runs[1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["Hi", "-t", "0", "-n", "9"], 0),
        (["Hi", "--seed", "5", "-n", "9", "--json", "--top", "2", "--stop", "e"], 0),
        (["Hi", "--seed", "5", "-n", "4", "--jsonl", "--attention", "--attention-by", "word"], 0),
        (["Hi", "--seed", "5", "-n", "4", "--attention", "--probs", "--top", "1"], 0),
        (["Hi", "--seed", "5", "-n", "3", "--samples", "3"], 0),
        (["Hi", "--raw", "--control-tokens", "--seed", "5", "-n", "4", "--show-prompt"], 0),
        (["Hi", "--prefill", "So", "--system", "Be brief.", "--seed", "5", "-n", "4", "--json"], 0),
        (["Hi", "--logit-bias", "97+3", "--context", "60", "--seed", "5"], 0),
        (["Hi", "--context", "4"], 6),
        (["Hi", "--logit-bias", "no such token+1"], 2),
        (["--fill-in", "a", "b"], 2),
        (["Hi", "--attention-by", "message", "--attention", "--raw"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_output_and_exit_code_are_the_same(server: TestServer, model: Path, arguments: list[str], code: int) -> None:
    before = server.server.service.requests
    warm, cold = generate(model, *arguments, code=code)
    assert (same(warm.stdout), same(warm.stderr)) == (same(cold.stdout), same(cold.stderr))
    assert code or warm.stdout
    assert code or server.server.service.requests > before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--regex", "[ab]{3}"], 0), (["--json-schema", SCHEMA, "--json"], 0), (["--regex", "[ab]{30}", "-n", "3"], 1)],
)
def test_a_form_is_kept_alike(server: TestServer, model: Path, arguments: list[str], code: int) -> None:
    pytest.importorskip("llguidance")
    warm, cold = generate(model, "Hi", "--seed", "5", "-n", "40", *arguments, code=code)
    assert (same(warm.stdout), same(warm.stderr)) == (same(cold.stdout), same(cold.stderr))


def test_files_of_a_run_are_the_same(server: TestServer, model: Path, tmp_path: Path) -> None:
    written = []
    for more in ([], ["--server", "off"]):
        record, page = tmp_path / "run.json", tmp_path / "page.html"
        run = ["Hi", "-m", model, "--seed", "5", "-n", "4", "--record", record, "--html", page]
        assert llm("generate", *run, *more).returncode == 0
        written.append((same(record.read_bytes()), same(page.read_bytes())))
    assert written[0] == written[1]
    assert llm("replay", record).returncode == 0


def test_a_thought_is_shown_and_saved_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = write_thinker(tmp_path / "m", b"hm.", b"Yes!")
    with serve(model, ServeSettings(log=tmp_path / "log.jsonl")):
        warm, cold = generate(model, "Hi", "--log", "-t", "0")
        assert (warm.stdout, warm.stderr) == (cold.stdout, cold.stderr) and b"hm." in warm.stderr
        # The second question comes after the saved ids of the first reply.
        for path in conversation_files(ANY):
            assert llm("generate", "And?", "--resume", path.stem, "-t", "0").returncode == 0
    trees = [read_conversation(path)[0] for path in conversation_files(ANY)]
    one, other = ([(node.text, node.ids, node.prompt_tokens, node.reason) for node in tree.path()] for tree in trees)
    assert one == other and len(one) == 4
    assert trees[0].settings == trees[1].settings
    # Saved replies are not counted twice.
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["route"], line["replies"], line["saved"]) for line in lines] == [("/internal/generate", 1, True)] * 3
    total = json.loads(llm("stats", "--log", tmp_path / "log.jsonl", "--json").stdout)["total"]
    assert total["replies"] == 4


def test_only_the_same_model_is_used(server: TestServer, model: Path, tmp_path: Path) -> None:
    assert find_server(WantedModel(str(model))) == server.state
    link = tmp_path / "link"
    link.symlink_to(model)
    assert find_server(WantedModel(str(link))) == server.state
    for other in (
        WantedModel(str(model), dtype="float32"),
        WantedModel(str(model), quantize="int8"),
        WantedModel(str(model), template="other"),
        WantedModel(str(shutil.copytree(model, tmp_path / "copy"))),
        WantedModel(str(tmp_path / "none")),
        WantedModel("nobody/nothing"),
    ):
        assert find_server(other) is None


def test_stats_say_which_process_answered(server: TestServer, model: Path) -> None:
    warm, cold = generate(model, "Hi", "-n", "2", "--stats")
    assert f"warm, pid {os.getpid()}" in warm.stderr.decode() and b"warm" not in cold.stderr
    assert "--server must be" in llm("generate", "Hi", "-m", model, "--server", "on").stderr.decode()


def test_a_server_that_is_gone_is_replaced_by_this_process(server: TestServer, model: Path, tmp_path: Path) -> None:
    server.server.service.ready, ready = None, server.server.service.ready
    try:
        result = llm("generate", "Hi", "-m", model, "-t", "0", "-n", "3", "--json")
    finally:
        server.server.service.ready = ready
    assert json.loads(result.stdout)["stats"]["generated_tokens"] == 3
    assert b"The model is being loaded. The model is loaded in this process." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["generate", "Hi", "--choices", "yes,no", "--top", "2"], 0),
        (["generate", "Hi", "--choices", "yes,no,maybe", "--json", "--readable", "--system", "Be brief."], 0),
        (["generate", "Hi", "--choices", "yes,no", "--min-prob", "1"], 1),
        (["generate", "Hi", "--choices", "yes,yes!", "--raw"], 2),
        (["generate", "Hi" * 400, "--choices", "yes,no"], 6),
        (["score", "the cat sat", "--top", "2"], 0),
        (["score", "the cat sat", "--json", "--top", "1", "--chat", "--context", "9"], 0),
        (["score", "the cat sat", "--json", "--readable"], 0),
        (["score", "a", "--context", "1"], 2),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_choices_and_scores_are_the_same(server: TestServer, model: Path, arguments: list[str], code: int) -> None:
    before = server.server.service.requests
    warm, cold = (llm(*arguments, "-m", model, *more) for more in ([], ["--server", "off"]))
    assert (warm.returncode, warm.stdout, warm.stderr) == (code, cold.stdout, cold.stderr)
    assert cold.returncode == code and (code > 1 or warm.stdout)
    assert server.server.service.requests > before


def test_answers_are_compared_after_a_thought(tmp_path: Path) -> None:
    model = write_thinker(tmp_path / "m", b"hm.", b"Yes!")
    with serve(model):
        warm, cold = generate(model, "Hi", "--choices", "Yes!,No", "--json", "--seed", "4", "--stop", "m")
    assert (warm.stdout, warm.stderr) == (cold.stdout, cold.stderr) and b"hm." in warm.stderr
    assert json.loads(warm.stdout)["thinking"] == "hm." and json.loads(warm.stdout)["seed"] == 4


def test_a_batch_is_answered_alike_and_in_order(server: TestServer, model: Path, tmp_path: Path) -> None:
    lines = [
        *({"id": n, "prompt": "Hi" * (n + 1), "seed": n, "max_tokens": 20 - 4 * n} for n in range(5)),
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "seed": 9},
        {"prompt": "x" * 900, "max_tokens": 3},
        {"prompt": 1},
        {"messages": [{"role": "assistant", "content": "So"}], "seed": 1, "max_tokens": 3},
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = server.server.service.requests
    runs = [llm("batch", file, "-m", model, "-n", "5", *more) for more in ([], ["--server", "off"])]
    assert [run.returncode for run in runs] == [1, 1]
    assert runs[0].stdout == runs[1].stdout and runs[0].stderr == runs[1].stderr
    assert [("error" in json.loads(line)) for line in runs[0].stdout.splitlines()] == [False] * 6 + [True, True, False]
    assert server.server.service.requests - before >= 7
    stats = llm("batch", file, "-m", model, "-n", "2", "--parallel", "2", "--stats", "--quiet")
    assert b"7 replies" in stats.stderr


def test_a_batch_that_was_begun_alone_is_continued_by_a_server(server: TestServer, model: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"prompt": "a", "seed": 1}\n{"prompt": "b", "seed": 2}\n')
    run = ["batch", file, "-m", model, "-n", "3", "--out", out]
    assert llm(*run, "--server", "off").returncode == 0
    whole = out.read_bytes()
    out.write_bytes(whole.splitlines(keepends=True)[0])
    continued = llm(*run)
    assert continued.returncode == 0 and b"1 of 2 results are there already" in continued.stderr
    assert out.read_bytes() == whole
