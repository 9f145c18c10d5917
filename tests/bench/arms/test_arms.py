"""Every arm computes the whole prompt and generates the requested number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcli.bench.arms import worker as arm_process
from llmcli.bench.arms.llmcli import LlmcliArm, start_command
from llmcli.bench.arms.protocol import ArmError, TimedRun
from llmcli.bench.bytes_per_token import model_facts, weight_bytes_per_token
from llmcli.bench.hardware.bandwidth import bandwidth
from llmcli.bench.hardware.machine import this_machine, versions
from llmcli.bench.plan import BenchPlan, Sizes
from llmcli.bench.results import MEASURES
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.hub.starter import fetch_starter, starter_path
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = tuple(random_ids(60))
SIZES = Sizes((9, 30), (0, 20), 3)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> BenchPlan:
    # With nearly every token a stop token, replies would end at once: the benchmark must ignore stop tokens.
    folder = tiny_checkpoint(tmp_path_factory.mktemp("m"), "llama", eos_token_id=list(range(250)))
    return BenchPlan("llmcli", str(folder), "cpu", "float32", torch.get_num_threads(), IDS, SIZES)


def test_llmcli_clears_its_cache_and_ignores_stop_tokens(plan: BenchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def count(name: str) -> None:
        method = getattr(PrefixCache, name)

        def counting(self: PrefixCache, *arguments: Any) -> Any:
            before = self.length
            result = method(self, *arguments)
            read.append(self.length - before)
            return result

        monkeypatch.setattr(PrefixCache, name, counting)

    count("read")
    count("multi_step")
    runner = LlmcliArm(plan, open_checkpoint(Path(plan.model)))
    for start in range(2):
        read.clear()
        run = runner.run(IDS[start : start + 20], 5)
        assert run.read == 20
        assert run.first_s > 0
        assert run.rest_s > 0
        # The last token is not computed, the others one by one or a few at a time.
        assert read[0] == 20 and sum(read) == 24
    # Tokens in the prefix cache do not count as read.
    assert runner.run(IDS[1:25], 1).read == 4
    assert "float32" in runner.how


def test_transformers_starts_without_a_cache_and_decodes_with_one(plan: BenchPlan) -> None:
    transformers = pytest.importorskip("transformers")
    from llmcli.bench.arms.hf_transformers import Transformers

    runner = Transformers(plan)
    shapes: list[tuple[int, int]] = []

    def look(module: object, args: object, options: dict[str, Any]) -> None:
        cache = options[runner.cache_argument]
        shapes.append((options["input_ids"].shape[1], 0 if cache is None else cache.get_seq_length()))

    runner._model.register_forward_pre_hook(look, with_kwargs=True)
    for _ in range(2):
        assert runner.run(IDS[:20], 4).read == 20
    assert shapes == [(20, 0), (1, 20), (1, 21), (1, 22)] * 2
    assert isinstance(runner._model, transformers.PreTrainedModel)
    assert runner._model.dtype == torch.bfloat16
    assert "bfloat16" in runner.how


@pytest.mark.starter
def test_llama_cpp_clears_its_cache_and_gives_the_right_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from llmcli.bench.arms.llama_cpp import LlamaCpp

    path = starter_path() or fetch_starter()
    tokenizer = open_checkpoint(path).read_text_parts().tokenizer
    ids = tokenizer.encode("The capital of France is", add_special_tokens=False)
    said: list[int] = []
    sample = llama_cpp.llama_sampler_sample

    def listening(*arguments: Any) -> int:
        said.append(sample(*arguments))
        return said[-1]

    monkeypatch.setattr(llama_cpp, "llama_sampler_sample", listening)
    runner = LlamaCpp(BenchPlan("llama.cpp", str(path), "cpu", "auto", 1, IDS, Sizes((), (len(ids),), 6)))
    for _ in range(2):
        run = runner.run(ids, 4)
        assert run.read == len(ids)
        assert run.rest_s > 0
    assert said[:4] == said[4:]
    assert tokenizer.decode(said[:1]) == " Paris"
    # A token of the prompt and a generated one lead to the same continuation.
    runner.run([*ids, said[0]], 3)
    assert said[8:] == said[1:4]
    with pytest.raises(ArmError, match="llama_decode answered 1"):
        runner.run(ids * 200, 1)
    with pytest.raises(ArmError, match=r"could not load the model: .*nowhere"):
        LlamaCpp(BenchPlan("llama.cpp", "/nowhere.gguf", "cpu", "auto", 1, IDS, SIZES))


def test_an_arm_reports_its_passes_and_measurements(plan: BenchPlan) -> None:
    class Clock:
        how = "by the clock"

        def __init__(self) -> None:
            self.asked: list[tuple[tuple[int, ...], int]] = []

        def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
            self.asked.append((tuple(ids), tokens))
            return TimedRun(0.5, 2.0, len(ids))

    said: list[dict[str, Any]] = []
    runner = Clock()
    arm_process._measure(runner, plan, said.append)
    values = {(one["measure"], one["size"]): one["value"] for one in said if "measure" in one}
    assert all(measure in MEASURES for measure, _ in values)
    short, whole = (values.pop((name, None)) for name in ("peak_memory_short_bytes", "peak_memory_bytes"))
    assert 0 < short <= whole
    assert values == {
        ("prefill_tokens_per_s", 9): 18.0,
        ("prefill_tokens_per_s", 30): 60.0,
        ("decode_tokens_per_s", 0): 1.5,
        ("decode_tokens_per_s", 20): 1.5,
    }
    assert said[-1] == {"how": "by the clock"}
    # Each prompt begins at another place in the text.
    starts = [IDS.index(ids[0]) for ids, _ in runner.asked]
    assert len({ids[:2] for ids, _ in runner.asked if len(ids) > 1}) == sum(len(ids) > 1 for ids, _ in runner.asked)
    assert starts[0] == 0


def test_default_sampling_is_measured_after_greedy_decoding(plan: BenchPlan) -> None:
    class Sampling:
        how = "by the clock"

        def run(self, ids: Sequence[int], _tokens: int) -> TimedRun:
            return TimedRun(0.5, 2.0, len(ids))

        def run_default(self, ids: Sequence[int], _tokens: int) -> TimedRun:
            return TimedRun(0.5, 4.0, len(ids))

    said: list[dict[str, Any]] = []
    arm_process._measure(Sampling(), plan, said.append)
    values = {(one["measure"], one["size"]): one["value"] for one in said if "measure" in one}
    assert values["default_decode_tokens_per_s", 20] * 2 == values["decode_tokens_per_s", 20]
    # After the peak memory, which is measured with the greedy settings.
    names = [one["measure"] for one in said if "measure" in one]
    assert names.index("peak_memory_bytes") < names.index("default_decode_tokens_per_s")


def test_errors_become_one_line() -> None:
    assert arm_process._message(ArmError("a\n b")) == "a b"
    assert arm_process._message(ValueError("x" * 1000)) == "ValueError: " + "x" * 300


def test_the_start_command_passes_the_plans_options(plan: BenchPlan) -> None:
    command = start_command(replace(plan, model="-odd name", device="cuda:1"))
    assert command[1:4] == ("-m", "llmcli", "generate")
    for flag, value in (("--model", "-odd name"), ("--device", "cuda:1"), ("--dtype", "float32"), ("-n", "1")):
        assert command[command.index(flag) + 1] == value


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_of_a_plausible_size(threads: int) -> None:
    # So few bytes may stay in the caches, so the limits are wide; they only catch gross mistakes of counting.
    assert 1e8 < bandwidth(torch.device("cpu"), threads, total_bytes=16 << 20) < 1e13


def test_facts_about_the_machine_are_found() -> None:
    machine = this_machine(torch.device("cpu"))
    assert 1 <= machine.physical_cores <= machine.logical_cores
    assert machine.memory_bytes > 1 << 28
    assert machine.gpu is None
    assert machine.cpu
    found = versions(["llmcli", "no such peer"], torch.device("cpu"))
    assert found["torch"] == torch.__version__
    assert set(found) == {"llmcli", "python", "torch"}


def test_llama_cpp_without_gpu_support_refuses_a_gpu(plan: BenchPlan) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from llmcli.bench.arms.llama_cpp import LlamaCpp

    if llama_cpp.llama_supports_gpu_offload():
        pytest.skip("this build of llama.cpp supports GPUs")
    with pytest.raises(ArmError, match="computes on the CPU only"):
        LlamaCpp(replace(plan, device="cuda"))


def test_bytes_of_weights_that_a_decode_step_reads(tmp_path: Path) -> None:

    tied = open_checkpoint(tiny_checkpoint(tmp_path / "tied", "llama", tie_word_embeddings=True))
    untied = open_checkpoint(tiny_checkpoint(tmp_path / "untied", "llama"))
    facts = model_facts(untied, SIZES)
    embedding = untied.stored_bytes("embed_tokens.weight")
    assert facts.stored_bytes == 4 * facts.parameters
    assert facts.weight_bytes_per_token == facts.stored_bytes - embedding
    # A tied embedding is read whole as the head, so both models read the same number of bytes.
    assert weight_bytes_per_token(tied) == model_facts(tied, SIZES).stored_bytes == facts.weight_bytes_per_token
    # 3 layers, 2 heads, keys and values of 8 numbers in 2 bytes: half-way through 3 tokens, after 1 and after 20.
    position_bytes = 3 * 2 * 2 * 8 * 2
    assert facts.bytes_per_token == {
        0: facts.weight_bytes_per_token + 2 * position_bytes,
        20: facts.weight_bytes_per_token + 21 * position_bytes,
    }


def test_only_chosen_experts_count_in_bytes_per_token(tmp_path: Path) -> None:

    folder = tiny_checkpoint(tmp_path / "m", "mixtral", num_local_experts=4, num_experts_per_tok=1)
    checkpoint = open_checkpoint(folder)
    experts = [name for name in checkpoint.sources if ".mlp.experts." in name]
    stored = sum(map(checkpoint.stored_bytes, checkpoint.sources)) - checkpoint.stored_bytes("embed_tokens.weight")
    idle = sum(map(checkpoint.stored_bytes, experts)) * 3 // 4
    assert experts
    assert weight_bytes_per_token(checkpoint) == stored - idle
