"""Weights are packed on their device, a few rows at once.

No GPU is needed to see that: tensors on `meta` have a device and a size but no values, so that what is made there can
be counted; and fake ones refuse, as a real device would, to be computed with anything that is on the CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llmcli.checkpoint import load_weights as weights_module
from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.load_packed import (
    Packing,
    PackingSizes,
    attach_packed_matrices,
    default_packing,
    packed_formats,
    planned_formats,
)
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.memory_estimate import parameter_bytes
from llmcli.checkpoint.read_packed import read_packed
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.repack import groups_of
from llmcli.model import Transformer
from llmcli.model.meta_device import meta_model
from llmcli.model.quantized.layout import PackedFormat, wide
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedEmbedding, QuantizedLinear
from llmcli.model.quantized.quantize import quantize
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import float32, write_gguf
from tests.support.kernels.packed_blocks import SCALES, sound_blocks
from tests.support.models.random_models import FORMATS
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Peak memory is measured in a process for each case.
pytestmark = pytest.mark.slow

META = torch.device("meta")
AS_IF_LARGE = PackingSizes(device_values=1 << 12, short_groups_below=0)


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the peak bytes of tensors on `meta`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.now -= nbytes


class InlineExecutor(Executor):
    """Runs submitted jobs at once in the submitting thread, so that a dispatch mode sees them."""

    def submit(self, fn: Any, /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Peak:
    @contextmanager
    def inline_workers(threads: int) -> Iterator[InlineExecutor]:
        yield InlineExecutor()

    monkeypatch.setattr(weights_module, "_single_thread_workers", inline_workers)
    return Peak()


def loaded(checkpoint: Checkpoint, packing: Packing, counted: Peak) -> Transformer:
    """The model on `meta`; its original parameters, which are on `meta` too, are not counted."""
    before = meta_model(checkpoint.config)
    with mock.patch.object(weights_module, "meta_model", lambda config, kind: before), counted:
        return load_weights(checkpoint, META, torch.bfloat16, packing=packing, sizes=AS_IF_LARGE)


def packed_bytes(checkpoint: Checkpoint, packing: Packing) -> int:
    model = meta_model(checkpoint.config)
    matrices = attach_packed_matrices(
        model, planned_formats(model, packing, checkpoint, META, AS_IF_LARGE), torch.bfloat16, META
    )
    dense = sum(parameter.nbytes for name, parameter in model.named_parameters())
    return sum(matrix.nbytes for matrix in matrices.values()) + dense


@pytest.mark.parametrize(("family", "packing"), [("llama", "int8"), ("gpt2", "int4"), ("mixtral", "int8")])
def test_peak_memory_is_the_packed_weights_plus_less_than_a_layer(
    family: str, packing: Packing, counted: Peak, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_local_experts": 2}
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, family, **sizes))
    final = packed_bytes(checkpoint, packing)
    layer = sum(p.numel() * 2 for n, p in meta_model(checkpoint.config).named_parameters() if n.startswith("layers.0."))
    model = loaded(checkpoint, packing, counted)
    assert model.device == META
    assert final <= counted.most <= final + layer
    # Temporaries have been freed.
    assert counted.now <= final + layer // 8


def test_stored_blocks_are_copied_to_the_device_unchanged(counted: Peak, tmp_path: Path) -> None:
    path = write_gguf(
        made("llama 3.1", hidden_size=64, intermediate_size=128), tmp_path / "m.gguf", kind_of=quantized(Kind.Q4_0)
    )
    checkpoint = open_checkpoint(path)
    loaded(checkpoint, "stored", counted)
    dense = sum(parameter.numel() * 2 for parameter in meta_model(checkpoint.config).parameters())
    assert counted.most < dense


def mixed(name: str, values: Any) -> Kind:
    """Like `Q4_K_M` files: some matrices have more bits."""
    return Kind.F32 if values.ndim < 2 else Kind.Q8_0 if "ffn_down" in name or "attn_v" in name else Kind.Q4_0


def uneven(name: str, values: Any) -> Kind:
    return Kind.Q8_0 if "ffn_up" in name else mixed(name, values)


@pytest.mark.parametrize(
    ("family", "kind_of", "on_cuda"),
    [
        ("llama 3.1", quantized(Kind.Q4_0), "stored"),
        ("llama 3.1", mixed, "stored"),
        ("llama 3.1", uneven, None),
        ("llama 3.1", float32, None),
        ("pythia, parallel", quantized(Kind.Q8_0), "stored"),
        ("mixtral", quantized(Kind.Q8_0), "stored"),
    ],
)
def test_stored_packing_is_the_default_if_the_kernel_reads_it(
    family: str, kind_of: Any, on_cuda: Packing | None, tmp_path: Path
) -> None:
    path = write_gguf(made(family, intermediate_size=64), tmp_path / "m.gguf", kind_of=kind_of)
    checkpoint = open_checkpoint(path)
    assert default_packing(checkpoint, torch.device("cuda")) == on_cuda
    assert default_packing(checkpoint, torch.device("cpu")) == "stored"
    assert default_packing(checkpoint, torch.device("mps")) is None


@pytest.mark.parametrize(
    ("family", "kind_of", "bits"),
    [
        ("llama 3.1", quantized(Kind.Q4_0), {4}),  # paired rows of queries and keys
        ("llama 3.2, tied", quantized(Kind.Q4_1), {4}),
        ("gemma 2", quantized(Kind.Q8_0), {8}),
        ("llama 3.1", mixed, {4, 8}),
        ("mixtral", quantized(Kind.Q5_0), {8}),
    ],
)
def test_packed_blocks_on_a_gpu_keep_the_stored_values(
    family: str, kind_of: Any, bits: set[int], tmp_path: Path
) -> None:
    model = made(family, hidden_size=160, intermediate_size=96)
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "m.gguf", kind_of=kind_of))
    shadow, dense = meta_model(checkpoint.config), load_weights(checkpoint, torch.device("cpu"), torch.float32)
    planned = planned_formats(shadow, "stored", checkpoint, torch.device("cuda"))
    assert {(kept.bits, kept.group, kept.wide) for kept in packed_formats(planned).values()} == {
        (each, 32, True) for each in bits
    }
    told = parameter_bytes(shadow, planned, torch.float32)
    with TensorReader() as reader:
        for name, matrix in attach_packed_matrices(shadow, planned, torch.float32, torch.device("cpu")).items():
            read_packed(checkpoint.sources[name], checkpoint.tensors, reader, matrix)
            values = torch.stack([matrix[index] for index in range(matrix.count)])
            assert torch.equal(values, dense.get_parameter(name).view(values.shape)), name
            assert told[name] == matrix.nbytes


@pytest.mark.parametrize("kept", FORMATS, ids=str)
@pytest.mark.parametrize("size", [(64, 96), (50, 40)])
def test_packing_runs_on_the_device(kept: PackedFormat, size: tuple[int, int]) -> None:
    with FakeTensorMode(), torch.inference_mode():
        matrix = PackedMatrix(kept, *size, dtype=torch.bfloat16, device=META)
        matrix.store(0, 0, quantize(torch.empty(size, dtype=torch.bfloat16, device=META), kept))
        x = torch.empty(3, size[1], dtype=torch.bfloat16, device=META)
        ids = torch.zeros(5, dtype=torch.long, device=META)
        results = [
            matrix[0],
            QuantizedLinear(matrix, bias=True)(x),
            QuantizedEmbedding(matrix)(ids),
        ]
    assert [result.device for result in results] == [META] * 3
    assert [result.shape for result in results] == [size, (3, size[0]), (5, size[1])]


@pytest.mark.parametrize("name", SCALES)
def test_stored_blocks_are_unpacked_on_the_device(name: str) -> None:
    raw = sound_blocks(name, 4, 2)
    # A table made from constants is not a fake tensor, but has a device.
    with FakeTensorMode(allow_non_fake_inputs=True):
        groups = groups_of(name, torch.empty(raw.shape, dtype=torch.uint8, device=META))
    assert {part.device for part in (groups.codes, *groups.scales_and_minima)} == {META}
    assert groups.codes.shape == groups_of(name, raw).codes.shape


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("packing", ["int8", "int4"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_packing_on_a_gpu_equals_packing_on_a_cpu(
    family: str, packing: Packing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(
        model: Transformer, packing: Packing, checkpoint: Checkpoint, _device: torch.device, sizes: PackingSizes
    ) -> Any:
        return planned_formats(model, packing, checkpoint, torch.device("cuda"), sizes)

    monkeypatch.setattr(weights_module, "planned_formats", planned)
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, family))
    ours, theirs = (
        load_weights(checkpoint, torch.device(device), torch.float32, packing=packing, sizes=AS_IF_LARGE)
        for device in ("cuda", "cpu")
    )
    assert isinstance(ours.embed_tokens, QuantizedEmbedding) and ours.embed_tokens.matrix.format.wide
    ids = torch.tensor([random_ids(20)])
    with torch.inference_mode():
        torch.testing.assert_close(ours(ids.cuda()).cpu(), theirs(ids), rtol=1e-3, atol=1e-3)


def test_small_models_are_quantized_in_short_groups(tmp_path: Path) -> None:
    model = meta_model(open_checkpoint(tiny_checkpoint(tmp_path, "llama")).config)
    cuda, size = torch.device("cuda"), sum(parameter.numel() for parameter in model.parameters())
    for limit, group in ((size + 1, 32), (size, 128)):
        sizes = PackingSizes(short_groups_below=limit)
        assert planned_formats(model, "int4", None, cuda, sizes)["layers.0.mlp.up_proj.weight"] == wide(4, group)
