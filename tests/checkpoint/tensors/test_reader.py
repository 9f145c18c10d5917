"""The tensor reader: any part of a tensor equals that part of the whole decoded file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmcli.checkpoint.files.weight_file import WeightFile
from llmcli.checkpoint.tensors import reader as tensors
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError, UnsupportedModelError

OFFSET = 37  # not aligned to anything
SHAPE = (24, 512)


def write(folder: Path, encoding_name: str, shape: tuple[int, ...] = SHAPE) -> tuple[TensorInfo, Tensor]:
    """A file with one tensor at an odd offset, and the tensor's values."""
    encoding = ENCODINGS[encoding_name]
    count = torch.Size(shape).numel()
    generator = torch.Generator().manual_seed(1)
    if encoding.dtype is None:
        stored = torch.randint(0, 64, (count // encoding.block_size, encoding.block_bytes), generator=generator)
        stored = stored.to(torch.uint8)
    else:
        values = torch.randint(-9, 9, (count, 1), generator=generator).to(encoding.dtype)
        stored = values.view(torch.uint8)
    path = folder / "weights"
    path.write_bytes(b"x" * OFFSET + bytes(stored.flatten().tolist()) + b"y" * 5)
    info = TensorInfo("blk.0.weight", shape, encoding_name, path, OFFSET, stored.numel())
    return info, encoding.decode(stored).reshape(shape)


def in_small_chunks() -> TensorReader:
    return TensorReader(decoded_at_once=1200)


@pytest.mark.parametrize("encoding", ["F64", "F32", "BF16", "F8_E4M3", "I32", "Q4_1", "Q6_K"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(first=st.integers(0, 24), second=st.integers(0, 24))
def test_rows_equal_those_of_the_whole_tensor(tmp_path: Path, encoding: str, first: int, second: int) -> None:
    info, values = write(tmp_path, encoding)
    start, stop = sorted((first, second))
    with in_small_chunks() as reader:
        rows = reader.read_rows(info, start, stop)
    assert rows.dtype == values.dtype
    assert rows.tolist() == values[start:stop].tolist()


@pytest.mark.parametrize("shape", [(), (7,), (6, 5), (3, 4, 5), (2, 0)])
def test_rows_of_tensors_with_any_number_of_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    info, values = write(tmp_path, "F32", shape)
    with in_small_chunks() as reader:
        rows = reader.read_rows(info, 0, info.rows)
        whole = torch.empty(shape)
        reader.read_into(info, whole)
    assert rows.shape == ((info.rows,) if len(shape) == 1 else (info.rows, info.row_length))
    assert torch.equal(rows.reshape(shape), values)
    assert torch.equal(whole, values)


def test_elements_inside_a_block_are_read(tmp_path: Path) -> None:
    info, values = write(tmp_path, "Q4_0", (96,))
    with in_small_chunks() as reader:
        assert torch.equal(reader.read_rows(info, 5, 90), values[5:90])


@pytest.mark.parametrize("encoding", ["F64", "F32", "F16", "BF16", "F8_E5M2", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_whole_tensors_are_read_as_any_float_type(tmp_path: Path, encoding: str, dtype: torch.dtype) -> None:
    info, values = write(tmp_path, encoding)
    target = torch.full(SHAPE, float("nan"), dtype=dtype)
    with in_small_chunks() as reader:
        reader.read_into(info, target)
    assert torch.equal(target, values.to(dtype))


@pytest.mark.parametrize("encoding", ["F32", "BF16", "Q4_K"])
def test_the_row_hook_gets_whole_groups_of_rows(tmp_path: Path, encoding: str) -> None:
    info, values = write(tmp_path, encoding)
    shapes = []

    def reverse_groups(rows: Tensor) -> Tensor:
        shapes.append(tuple(rows.shape))
        return rows.view(-1, 4, 512).flip(1).view(rows.shape)

    target = torch.empty(SHAPE)
    with in_small_chunks() as reader:
        reader.read_into(info, target, rows=reverse_groups, chunk_rows_multiple=4)
    assert shapes == [(4, 512)] * 6
    assert torch.equal(target, values.float().view(6, 4, 512).flip(1).view(SHAPE))


def test_tensors_of_the_target_type_are_read_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, values = write(tmp_path, "BF16")
    target = torch.empty(SHAPE, dtype=torch.bfloat16)

    def no_memory(*_: object, **__: object) -> Tensor:
        raise AssertionError("another tensor was allocated")

    with in_small_chunks() as reader, monkeypatch.context() as patch:
        patch.setattr(torch, "empty", no_memory)
        reader.read_into(info, target)
    assert torch.equal(target, values)


def test_many_threads_share_one_open_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info, values = write(tmp_path, "Q6_K")
    opened: list[WeightFile] = []

    def recording(path: Path) -> WeightFile:
        opened.append(WeightFile(path))
        return opened[-1]

    monkeypatch.setattr(tensors, "WeightFile", recording)
    barrier = threading.Barrier(4)
    with in_small_chunks() as reader, ThreadPoolExecutor(4) as pool:

        def read(worker: int) -> bool:
            barrier.wait()
            rows = range(worker, 24, 4)
            return all(torch.equal(reader.read_rows(info, row, row + 1), values[row : row + 1]) for row in rows)

        assert all(pool.map(read, range(4)))
    assert len(opened) == 1
    with pytest.raises(CheckpointError):
        opened[0].read(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["direct", "converted"])
def test_errors_for_truncated_files_name_file_and_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    info, _ = write(tmp_path, "F32")
    os.truncate(info.path, OFFSET + info.nbytes - 1)
    with in_small_chunks() as reader, pytest.raises(CheckpointError) as caught:
        reader.read_into(info, torch.empty(SHAPE, dtype=dtype))
    assert str(info.path) in str(caught.value)
    assert "blk.0.weight" in str(caught.value)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [Path.unlink, replace_by_fifo, replace_by_folder])
def test_unreadable_files_are_refused_without_blocking(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    info, _ = write(tmp_path, "F32")
    spoil(info.path)
    with in_small_chunks() as reader, pytest.raises(CheckpointError, match=str(info.path)):
        reader.read_rows(info, 0, 1)


@pytest.mark.parametrize("encoding", ["I32", "BOOL", "U8"])
def test_integer_tensors_are_refused_as_weights(tmp_path: Path, encoding: str) -> None:
    info, _ = write(tmp_path, encoding)
    with in_small_chunks() as reader, pytest.raises(CheckpointError, match=f"{encoding} numbers"):
        reader.read_into(info, torch.empty(SHAPE))


def test_unknown_encodings_and_odd_heads_are_named(tmp_path: Path) -> None:
    info, _ = write(tmp_path, "F32")
    unknown = TensorInfo(info.name, SHAPE, "Q1_0", info.path, OFFSET, info.nbytes)
    with in_small_chunks() as reader:
        with pytest.raises(UnsupportedModelError, match="stored as Q1_0"):
            reader.read_rows(unknown, 0, 1)
        with pytest.raises(CheckpointError, match="24 rows, not a multiple of 7"):
            reader.read_into(info, torch.empty(SHAPE), rows=torch.clone, chunk_rows_multiple=7)


@pytest.mark.parametrize("target", [torch.empty(24, 511), torch.empty(512, 24).T, torch.empty(SHAPE, device="meta")])
def test_targets_of_another_shape_are_refused(tmp_path: Path, target: Tensor) -> None:
    info, _ = write(tmp_path, "F32")
    with in_small_chunks() as reader, pytest.raises(ValueError, match="cannot be read into"):
        reader.read_into(info, target)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 25)])
def test_rows_outside_the_tensor_are_refused(tmp_path: Path, start: int, stop: int) -> None:
    info, _ = write(tmp_path, "F32")
    with in_small_chunks() as reader, pytest.raises(ValueError, match="24 rows"):
        reader.read_rows(info, start, stop)
