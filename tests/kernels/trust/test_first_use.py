"""A kernel is checked once on a machine; one that fails is not used, and a message says why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import SamplingParams
from llmcli.engine.events import Finish, Step
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import build
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.readable_step import ReadableStep
from llmcli.kernels.select import cuda_step, why_no_kernel
from llmcli.kernels.trust import comparison
from llmcli.kernels.trust.comparison import fault_of
from llmcli.kernels.trust.first_use import check_kernel, forget, kernel_of
from llmcli.kernels.trust.identity import cuda_kernel
from llmcli.kernels.trust.verdict import ASK, kept_verdict
from llmcli.model import KVCache, Transformer
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.terminal.cli import llm

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RIGHT = CpuStep.forward
Told = list[str]


@pytest.fixture(autouse=True)
def _new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile the kernel, and start without a verdict."""
    try:
        build.load_library()
    except NoKernelError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ASK, raising=False)
    forget()
    yield
    forget()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny_model("llama"), tmp_path / "model")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The verdicts of the checks that are made."""
    made = []

    def noted(*arguments: Any) -> str:
        made.append(fault_of(*arguments))
        return made[-1]

    monkeypatch.setattr(comparison, "fault_of", noted)
    return made


def wrong(*arguments: Any, **options: Any) -> torch.Tensor:
    return 1.5 * RIGHT(*arguments, **options)


def fails(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError("illegal instruction\nand more")


def load(folder: Path, told: Told) -> llmcli.LoadedModel:
    return replace(llmcli.load(folder, device="cpu", dtype="float32"), tell=told.append)


def reply(loaded: llmcli.LoadedModel, prompt: Sequence[int], params: SamplingParams) -> tuple[list[int], str]:
    """The tokens of a reply, and the name of the path that computed them."""
    events = list(loaded.engine(lookup=None).stream(list(prompt), params, probabilities=False))
    finish = events[-1]
    assert isinstance(finish, Finish)
    return [event.id for event in events if isinstance(event, Step)], finish.stats.path


@pytest.mark.parametrize(
    ("forward", "fault"),
    [
        (wrong, "float32, a prompt: logits differ by 50 % from the readable model's (rounding: 0.1 %)"),
        (fails, "error: illegal instruction"),
    ],
)
def test_a_kernel_that_fails_its_check_is_not_used(
    forward: Any, fault: str, folder: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("generate", "--raw", "ab", "-m", folder, "-t", "0", "-n", "6", "--device", "cpu", "--dtype", "float32")
    expected = llm(*command)
    assert (expected.returncode, expected.stderr) == (0, b"")
    monkeypatch.setattr(CpuStep, "forward", forward)
    kernel = kernel_of(CPU)
    assert kernel is not None
    kernel.verdict_file.unlink()
    for run in range(2):
        forget()
        result = llm(*command, "--stats")
        assert (result.returncode, result.stdout) == (0, expected.stdout)
        line, stats = result.stderr.decode().splitlines()
        assert line == (
            f"The C kernel did not pass the check on this machine ({fault}), so the readable model makes the replies, "
            "more slowly; llm doctor says more."
        ), run
        assert stats.endswith(
            f"readable model, cpu, float32 (the C kernel did not pass the check on this machine: {fault})"
        )
    # One good and one bad verdict; the second process used the verdict of the first.
    assert len(checks) == (2 if forward is wrong else 1)
    assert llm(*command, "--quiet").stderr == b""
    doctor = llm("doctor", "--device", "cpu", "--json")
    assert doctor.returncode == 1
    (finding,) = json.loads(doctor.stdout)["kernels"]
    assert (finding["level"], finding["subject"]) == ("problem", "the C kernel") and fault in finding["message"]
    assert why_no_kernel(None, CPU) == f"the C kernel did not pass the check on this machine: {fault}"


def test_the_verdict_of_a_good_kernel_is_kept(folder: Path, checks: list[str]) -> None:
    told: Told = []
    assert llm("doctor", "--device", "cpu").returncode == 0
    first = load(folder, told)
    assert not checks
    for loaded in (first, first, load(folder, told)):
        assert loaded.engine().path.startswith("cpu kernel (")
        forget()
    assert (checks, told) == ([""], [])
    (finding,) = json.loads(llm("doctor", "--device", "cpu", "--json").stdout)["kernels"]
    assert finding["level"] == "good" and "matched the readable model" in finding["message"]


def test_replies_of_the_readable_model_do_not_check_kernels(folder: Path, checks: list[str]) -> None:
    assert llm("score", "abc", "-m", folder, "--readable").returncode == 0
    load(folder, []).prefix_cache(readable=True)
    assert not checks
    assert llm("score", "abc", "-m", folder).returncode == 0
    assert checks == [""]


def test_a_new_kernel_or_a_new_torch_is_checked_again(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in (1, 1):
        assert check_kernel(CPU, fails) is None and len(checks) == expected
        forget()
    library = replace(build.load_library(), key="of another compiler")
    monkeypatch.setattr(build, "load_library", lambda: library)
    for expected in (2, 2):
        assert check_kernel(CPU, fails) is None and len(checks) == expected
        forget()


def test_an_environment_variable_repeats_the_check(checks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASK, "1")
    for expected in (1, 2):
        check_kernel(CPU, fails)
        check_kernel(CPU, fails)
        assert len(checks) == expected
        forget()
    monkeypatch.delenv(ASK)
    check_kernel(CPU, fails)
    assert len(checks) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 60000,
        b"[1]",
        b"\xff\xfe",
        b'{"schema": "llmcli.kernel-check/1", "key": "of another", "fault": "", "failure": ""}',
        b'{"schema": "llmcli.kernel-check/1", "key": "KEY", "fault": null, "failure": ""}',
        b'{"schema": "llmcli.kernel-check/0", "key": "KEY", "fault": "", "failure": ""}',
    ],
)
def test_a_damaged_verdict_is_ignored(content: bytes, checks: list[str]) -> None:
    kernel = kernel_of(CPU)
    assert kernel is not None
    kernel.verdict_file.parent.mkdir(parents=True)
    kernel.verdict_file.write_bytes(content.replace(b"KEY", kernel.key.encode()))
    assert kept_verdict(kernel) is None
    assert check_kernel(CPU, fails) is None
    assert checks == [""]
    assert json.loads(kernel.verdict_file.read_bytes())["key"] == kernel.key


def test_without_a_writable_folder_each_process_checks(checks: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    for expected in (1, 2):
        check_kernel(CPU, fails)
        check_kernel(CPU, fails)
        assert len(checks) == expected
        forget()


def test_a_lack_of_memory_is_not_kept_as_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_of(CPU)
    assert kernel is not None
    for error in (MemoryError(), NoKernelError("no threads"), torch.OutOfMemoryError("out of memory")):

        def lacking(*_arguments: Any, _error: Exception = error) -> str:
            raise _error

        monkeypatch.setattr(comparison, "fault_of", lacking)
        assert check_kernel(CPU, fails) is None
        assert kept_verdict(kernel) is None


def broken_for(model: list[Transformer], method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the kernel raise an error in this kind of call for this model."""
    right: Callable[..., Any] = getattr(CpuStep, method)

    def forward(self: CpuStep, *arguments: Any, **options: Any) -> Any:
        if self._model in model:
            fails()
        return right(self, *arguments, **options)

    monkeypatch.setattr(CpuStep, method, forward)


@pytest.mark.parametrize(
    ("method", "length", "params"),
    [
        ("forward", 5, SamplingParams(temperature=0, max_tokens=12)),
        ("forward", 5, SamplingParams(temperature=0.8, repeat_penalty=1.1, seed=3, max_tokens=12)),
        # With dense weights the readable model reads longer prompts, so the kernel's first pass samples tokens.
        ("forward_multi_step", 30, SamplingParams(temperature=0, max_tokens=12)),
        ("forward_multi_step", 30, SamplingParams(temperature=1.3, top_k=40, seed=5, max_tokens=12)),
    ],
)
def test_a_failed_first_pass_is_repeated_by_the_readable_model(
    method: str, length: int, params: SamplingParams, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: Told = []
    loaded = load(folder, told)
    prompt = random_ids(length)
    expected, path = reply(replace(loaded, why_readable="for the test"), prompt, params)
    assert len(expected) == 12 and path.startswith("readable model")
    broken_for([loaded.model], method, monkeypatch)
    ids, path = reply(loaded, prompt, params)
    assert ids == expected
    assert path == "readable model, cpu, float32 (the C kernel failed: illegal instruction)"
    assert told == [
        "The C kernel failed with this model (illegal instruction), so the readable model makes the replies, more "
        "slowly; llm doctor says more."
    ]
    forget()
    good, note = json.loads(llm("doctor", "--device", "cpu", "--json").stdout)["kernels"]
    assert (good["level"], note["level"]) == ("good", "note") and "illegal instruction" in note["message"]
    # The kernel passed its check, and may work with another model.
    assert why_no_kernel(None, CPU) is None


@pytest.mark.parametrize("method", ["forward_rows", "forward"])
def test_a_failed_batched_pass_loses_no_token(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    loaded = load(folder, told)
    broken_for([loaded.model], method, monkeypatch)
    step = loaded._step(1)
    caches = [loaded.model.new_cache(), loaded.model.new_cache()]
    texts = random_ids(20), random_ids(18, seed=2)
    with torch.inference_mode():
        for ids, cache in zip(texts, caches, strict=True):
            step.forward(ids[:-1], cache)
        logits = step.forward_rows([ids[-1] for ids in texts], caches)
        theirs = torch.stack([loaded.logits(ids)[-1] for ids in texts])
    assert (logits - theirs).abs().max() < 1e-4
    assert [cache.length for cache in caches] == [20, 18]
    assert len(told) == 1


def test_a_failed_pass_of_several_tokens_loses_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(folder, [])
    broken_for([loaded.model], "forward_each", monkeypatch)
    step = loaded._step(1)
    cache, ids = loaded.model.new_cache(), random_ids(24)
    step.forward(ids[:20], cache)
    logits = step.forward_each(ids[20:], cache)
    assert (logits - loaded.logits(ids)[20:]).abs().max() < 1e-4
    assert cache.length == 24


def test_an_error_after_the_first_pass_is_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Told = []
    loaded = load(folder, told)
    step = loaded._step(1)
    cache = loaded.model.new_cache()
    step.forward(random_ids(5), cache)
    broken_for([loaded.model], "forward", monkeypatch)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        step.forward([1], cache)
    assert not told


def test_an_input_that_the_readable_model_refuses_too_is_not_a_kernel_fault(folder: Path) -> None:
    told: Told = []
    loaded = load(folder, told)
    step = loaded._step(1)
    with pytest.raises(ValueError, match="refuses"):
        step.forward([10**6], loaded.model.new_cache())
    assert step.name.startswith("cpu kernel (") and not told


class Fake(ReadableStep):
    """A fake step on a GPU, whose logits are multiplied by `factor`."""

    factor = 1.0

    def forward(self, ids: Sequence[int], cache: KVCache, *, only_last: bool = True) -> torch.Tensor:
        return super().forward(ids, cache, only_last=only_last) * self.factor


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that there is a GPU; its kernels are a `Fake`, and models stay on the CPU."""
    pytest.importorskip("triton")
    monkeypatch.setattr("torch.version.cuda", "12.8")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _device: "a GPU")
    monkeypatch.setattr("llmcli.kernels.cuda.step.CudaStep", lambda model, _fallback: Fake(model, ""))
    monkeypatch.setattr(comparison, "fault_of", lambda cases, make_step, _device: fault_of(cases, make_step, CPU))
    cuda_kernel.cache_clear()
    yield
    cuda_kernel.cache_clear()


@pytest.mark.usefixtures("gpu")
def test_triton_kernels_that_fail_their_check_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder, []).model
    told: Told = []
    assert check_kernel(CUDA, told.append) is None
    assert isinstance(cuda_step(model, None), Fake)
    monkeypatch.setattr(Fake, "factor", 0.7)
    forget()
    # The verdict is kept until, for example, the driver changes.
    assert check_kernel(CUDA, told.append) is None and not told
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _device: "another GPU")
    cuda_kernel.cache_clear()
    reason = check_kernel(CUDA, told.append)
    fault = "bfloat16, int4 and int8, a prompt: logits differ by 30 % from the readable model's (rounding: 10 %)"
    assert reason == f"the Triton kernels did not pass the check on this machine: {fault}" == why_no_kernel(None, CUDA)
    assert told == [
        f"The Triton kernels did not pass the check on this machine ({fault}), so the readable model makes the "
        "replies, more slowly; llm doctor says more."
    ]
    step = cuda_step(model, reason)
    assert step.capabilities.device_tokens
    assert step.name == f"readable model in a CUDA graph, float32 ({reason})"


def test_triton_kernels_that_fail_with_a_model_are_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    model = load(folder, []).model
    monkeypatch.setattr("llmcli.kernels.cuda.launch_plan.LaunchPlan.launch", fails)
    failed: Told = []
    step = cuda_step(model, None, failed.append)
    cache, ids = model.new_cache(), random_ids(9)
    parts = [step.forward(ids[:6], cache), *(step.forward([token], cache) for token in ids[6:])]
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]))[0, 5:]
    assert (torch.cat(parts) - theirs).abs().max() < 1e-4
    assert failed == ["Triton: illegal instruction"]
    assert step.name == "readable model in a CUDA graph, float32 (Triton: illegal instruction)"
