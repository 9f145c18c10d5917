"""The Triton kernel dequantizes to the same bits as torch, and torch dequantizes where the kernel cannot."""

from __future__ import annotations

import copy
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import Packing, PackingSizes, planned_formats
from llmcli.kernels.cuda.dequantize import CudaUnpacker, unpacker_for
from llmcli.model import Transformer
from llmcli.model.quantized.layout import PackedFormat, wide
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedLinear
from tests.support.kernels.triton_device import DEVICE
from tests.support.models.random_models import WIDE, pack_model, packed, random_groups, random_model
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

# Without a GPU, Triton's interpreter runs the kernels.
pytestmark = pytest.mark.slow

Kernels = dict[Any, "Future[Any]"]
# The interpreter truncates to bfloat16 instead of rounding; compiled kernels round.
DTYPES = (torch.float32, torch.float16, *((torch.bfloat16,) if DEVICE.type == "cuda" else ()))


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """An empty table of compiled kernels."""
    compiled: Kernels = {}
    monkeypatch.setattr("llmcli.kernels.cuda.dequantize._kernels", compiled)
    return compiled


def registered(kernels: Kernels, *matrices: PackedMatrix) -> None:
    """Make the kernels dequantize these matrices."""
    CudaUnpacker().register(matrices)
    for kernel in kernels.values():
        kernel.result(timeout=60)


def matrices_of(model: torch.nn.Module) -> list[PackedMatrix]:
    return [module for module in model.modules() if isinstance(module, PackedMatrix)]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Compare bit by bit, because zeros have signs too."""
    return torch.equal(ours, theirs) and torch.equal(ours.signbit(), theirs.signbit())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(16, 128), (1, 1), (37, 100), (50, 290), (6, 700)])
@pytest.mark.parametrize("kept", WIDE, ids=str)
def test_values_equal_torchs_to_the_last_bit(
    kept: PackedFormat, size: tuple[int, int], dtype: torch.dtype, kernels: Kernels
) -> None:
    matrix = packed(random_groups(kept, *size), kept, dtype=dtype).to(DEVICE)
    theirs = matrix[0]
    registered(kernels, matrix)
    assert matrix.unpacker is not None and matrix.unpacker.ready(matrix, dtype)
    assert same(matrix[0], theirs)


@pytest.mark.parametrize("kept", WIDE, ids=str)
def test_extreme_values_and_zeros_equal_torchs_to_the_last_bit(kept: PackedFormat, kernels: Kernels) -> None:
    groups = random_groups(kept, 64, 256)
    numbers = torch.tensor([0.0, -0.0, 2.0**-24, -(2.0**-24), 65504, -65504, 1 / 3, 0.1]).to(groups.scale.dtype)
    scale = numbers.repeat_interleave(8)[:, None].expand_as(groups.scale)
    minimum = None if groups.minimum is None else numbers.repeat(8)[:, None].expand_as(groups.minimum)
    matrix = packed(Groups(groups.codes, scale, minimum, kept.group), kept).to(DEVICE)
    theirs = matrix[0]
    registered(kernels, matrix)
    assert same(matrix[0], theirs)


@pytest.mark.parametrize("kept", WIDE, ids=str)
def test_every_matrix_of_a_stack_is_dequantized(kept: PackedFormat, kernels: Kernels) -> None:
    stack = PackedMatrix(kept, 21, 140, dtype=torch.float32, count=3)
    for index in range(3):
        stack.store(index, 0, random_groups(kept, 21, 140, seed=index))
    stack = stack.to(DEVICE)
    theirs = [stack[index] for index in range(3)]
    registered(kernels, stack)
    assert all(same(stack[index], values) for index, values in enumerate(theirs))


@pytest.mark.parametrize("kept", [wide(8), wide(4)], ids=str)
def test_large_matrices_are_dequantized_in_pieces_of_bounded_size(kept: PackedFormat, kernels: Kernels) -> None:
    matrix = packed(random_groups(kept, 75, 45), kept, values_at_once=600).to(DEVICE)
    whole = matrix[0]
    registered(kernels, matrix)
    pieces = list(matrix.dense(torch.float32))
    assert len(pieces) == 3 and all(piece.nbytes <= 12 * 600 for piece in pieces)
    assert same(torch.cat(pieces), whole)


def test_gradients_are_those_of_the_rows_that_were_used(kernels: Kernels) -> None:
    linear = QuantizedLinear(packed(random_groups(wide(4), 75, 45), wide(4), values_at_once=600)).to(DEVICE)
    weight = linear.weight
    registered(kernels, linear.matrix)
    x = torch.randn(3, 45, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(x).sum(), x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(3, 45))


def test_a_mixture_of_experts_computes_the_same(kernels: Kernels) -> None:
    sizes = {"num_hidden_layers": 1, "num_local_experts": 3, "vocab_size": 70, "hidden_size": 32}
    model = pack_model(random_model("mixtral", **sizes), wide(4)).to(DEVICE)
    ids = torch.tensor([[1, 5, 60, 3, 33, 7, 21]], device=DEVICE)
    with torch.inference_mode():
        theirs = model(ids)
        registered(kernels, *matrices_of(model))
        assert same(model(ids), theirs)
        # A copy of the model uses the kernels too.
        assert same(copy.deepcopy(model)(ids), theirs)


def test_a_loaded_model_uses_the_kernels_once_they_are_compiled(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, asked = random_ids(9), []

    def unpacker(device: torch.device) -> CudaUnpacker:
        asked.append(device.type)
        return CudaUnpacker()

    def planned(
        model: Transformer, packing: Packing, checkpoint: Checkpoint, _device: torch.device, sizes: PackingSizes
    ) -> Any:
        return planned_formats(model, packing, checkpoint, torch.device("cuda"), sizes)

    monkeypatch.setattr("llmcli.checkpoint.load_weights.planned_formats", planned)
    folder = tiny_checkpoint(tmp_path, "llama", num_hidden_layers=1)
    theirs = llmcli.load(folder, dtype="float32", quantize="int4", device=str(DEVICE)).logits(ids)
    kernels.clear()
    monkeypatch.setattr("llmcli.checkpoint.load_packed.unpacker_for", unpacker)
    loaded = llmcli.load(folder, dtype="float32", quantize="int4", device=str(DEVICE))
    assert asked == [DEVICE.type] and kernels
    for kernel in kernels.values():
        kernel.result(timeout=60)
    matrices = matrices_of(loaded.model)
    assert all(matrix.unpacker and matrix.unpacker.ready(matrix, torch.float32) for matrix in matrices)
    assert same(loaded.logits(ids), theirs)


def test_torch_dequantizes_until_the_kernel_is_compiled(kernels: Kernels) -> None:
    matrix = packed(random_groups(wide(4), 20, 130), wide(4)).to(DEVICE)
    theirs = matrix[0]
    registered(kernels, matrix)
    (kind,) = kernels
    kernels[kind] = Future()
    assert matrix.unpacker is not None and not matrix.unpacker.ready(matrix, torch.float32)
    assert matrix.unpacker.pending(matrix, torch.float32)
    assert same(matrix[0], theirs)
    kernels[kind].set_result(None)
    assert not matrix.unpacker.ready(matrix, torch.float32) and not matrix.unpacker.pending(matrix, torch.float32)


def test_torch_dequantizes_if_the_kernel_does_not_compile(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr("llmcli.kernels.cuda.dequantize._launch", fail)
    matrix = packed(random_groups(wide(4), 20, 130), wide(4)).to(DEVICE)
    theirs = matrix[0]
    registered(kernels, matrix)
    assert same(matrix[0], theirs)
    # The error must not keep a deleted model in memory; the compiling thread may still be about to release it.
    gone, until = weakref.ref(matrix), time.monotonic() + 60
    del matrix
    while gone() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert gone() is None


def test_torch_dequantizes_to_types_without_a_kernel(kernels: Kernels) -> None:
    matrix = packed(random_groups(wide(4), 20, 130), wide(4)).to(DEVICE)
    registered(kernels, matrix)
    (values,) = matrix.dense(torch.float64)
    assert same(values, matrix[0].double())


def test_an_unpacker_is_made_where_kernels_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpacker_for(torch.device("cpu")) is unpacker_for(torch.device("mps")) is None
    for capability, there in ((7, 5), False), ((9, 0), True):
        monkeypatch.setattr("torch.version.cuda", "12.8")
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _device, found=capability: found)
        assert isinstance(unpacker_for(torch.device("cuda")), CudaUnpacker) is there
