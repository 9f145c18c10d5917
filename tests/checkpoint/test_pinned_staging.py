"""Weights copied through the ring are unchanged, even if the device copies late and out of order."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from llmcli.checkpoint import load_weights as weights_module
from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.pinned_staging import PlainCopy, Ring, device_copy, stream, streamed_spans
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.errors import CheckpointError
from llmcli.model.meta_device import meta_model
from tests.support.gguf.families import made
from tests.support.gguf.writer import write_gguf
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Weights larger than the staging buffers.
pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Late:
    """A device that copies as late as possible: when it is waited for, or at the end, in arbitrary order."""

    def __init__(self) -> None:
        self.buffers = 0
        self._open: dict[int, Callable[[], object]] = {}
        self._lock = threading.Lock()
        self._count = 0

    def buffer(self, nbytes: int) -> Tensor:
        self.buffers += 1
        return torch.empty(nbytes, dtype=torch.uint8)

    def fetch(self, source: Tensor, put: Callable[[Tensor], object]) -> Callable[[], object]:
        with self._lock:
            self._count += 1
            number = self._count
            self._open[number] = lambda: put(source.clone())
        return lambda: self.finish(number)

    def finish(self, number: int) -> None:
        with self._lock:
            late = self._open.pop(number, None)
        if late is not None:
            late()

    def finish_all(self) -> None:
        numbers = list(self._open)
        random.Random(1).shuffle(numbers)
        for number in numbers:
            self.finish(number)


def expected(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    return dict(load_weights(open_checkpoint(path), CPU, dtype).named_parameters())


def check(path: Path, dtype: torch.dtype, buffer_bytes: int, threads: int, *, least: int) -> None:
    checkpoint = open_checkpoint(path)
    late = Late()
    ring = Ring(late, 3, buffer_bytes=buffer_bytes)
    right = expected(path, dtype)
    made = {}
    with TensorReader() as reader:

        def read(names: list[str]) -> None:
            for name in names:
                spans = streamed_spans(checkpoint.sources[name], checkpoint.tensors, ring)
                if spans:
                    made[name] = torch.full_like(right[name], torch.nan)
                    stream(spans, reader, made[name], ring)

        names = [name for name, _ in meta_model(checkpoint.config).named_parameters()]
        workers = [threading.Thread(target=read, args=(names[n::threads],)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    late.finish_all()
    assert len(made) >= least
    assert late.buffers <= 3
    for name, values in made.items():
        assert torch.equal(values, right[name].detach()), name


@pytest.mark.parametrize("family", ["llama", "mixtral", "phi3", "qwen3_moe"])
@pytest.mark.parametrize(("buffer_bytes", "threads"), [(600, 1), (5000, 4), (1 << 20, 2)])
def test_safetensors_are_copied_unchanged(family: str, buffer_bytes: int, threads: int, tmp_path: Path) -> None:
    check(tiny_checkpoint(tmp_path, family), torch.float32, buffer_bytes, threads, least=12)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_all_float_types_are_converted_to_all_others(stored: torch.dtype, wanted: torch.dtype, tmp_path: Path) -> None:
    check(save(tiny_model("llama").to(stored), tmp_path), wanted, 2000, 2, least=20)


def test_paired_rows_are_reordered(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1"), tmp_path / "model.gguf")
    checkpoint = open_checkpoint(path)
    assert any(getattr(source, "pairs", None) for source in checkpoint.sources.values())
    check(path, torch.float32, 4000, 2, least=12)


def test_rows_larger_than_a_buffer_are_not_streamed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, "llama"))
    source = checkpoint.sources["layers.0.mlp.up_proj.weight"]
    assert not streamed_spans(source, checkpoint.tensors, Ring(Late(), 1, buffer_bytes=100))
    assert not streamed_spans(checkpoint.sources["norm.weight"], checkpoint.tensors, Ring(Late(), 1))


def test_a_truncated_file_loses_no_buffer_of_the_ring(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "llama")
    checkpoint = open_checkpoint(folder)
    spans = streamed_spans(checkpoint.sources["lm_head.weight"], checkpoint.tensors, Ring(Late(), 1))
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:2000])
    ring = Ring(PlainCopy(CPU), 1, buffer_bytes=1000)
    target = torch.empty(checkpoint.config.vocab_size, checkpoint.config.hidden_size)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="cut short"):
        stream(spans, reader, target, ring)
    file.write_bytes(whole)
    with TensorReader() as reader:
        stream(spans, reader, target, ring)
    assert torch.equal(target, expected(folder, torch.float32)["lm_head.weight"].detach())


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_a_model_is_loaded_through_the_ring(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load through the ring as for a GPU, with the CPU as the device."""
    folder = tiny_checkpoint(tmp_path, family)
    right = expected(folder, torch.float32)
    noting = mock.Mock(wraps=stream)
    monkeypatch.setattr(weights_module, "stream", noting)
    monkeypatch.setattr(weights_module, "device_copy", lambda device: PlainCopy(CPU))
    monkeypatch.setattr(weights_module, "_is_main_memory", lambda device: False)
    model = load_weights(open_checkpoint(folder), CPU, torch.float32)
    assert noting.call_count >= 2
    for name, values in model.named_parameters():
        assert torch.equal(values, right[name]), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_loading_on_a_gpu_equals_loading_on_a_cpu(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, family, hidden_size=512, intermediate_size=2048)
    cuda = torch.device("cuda")
    assert not isinstance(device_copy(cuda), PlainCopy)
    model = load_weights(open_checkpoint(folder), cuda, torch.float32)
    right = expected(folder, torch.float32)
    for name, values in model.named_parameters():
        assert torch.equal(values.cpu(), right[name]), name
    assert model(torch.tensor([random_ids(5)], device=cuda)).isfinite().all()
