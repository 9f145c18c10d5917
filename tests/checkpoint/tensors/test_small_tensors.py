from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.small_tensors import read_integers, read_numbers, read_stored
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError

VALUES = torch.tensor([[1.0, -2.5, 3.14159], [float("inf"), 1e-7, 65504.0]])
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def written(folder: Path, encoding: str) -> TensorInfo:
    raw = bytes(VALUES.to(DTYPES[encoding]).contiguous().view(torch.uint8).flatten().tolist())
    (folder / "file").write_bytes(b"begin" + raw)
    return TensorInfo("frequencies", tuple(VALUES.shape), encoding, folder / "file", 5, len(raw))


@pytest.mark.parametrize("encoding", DTYPES)
def test_numbers_equal_those_of_the_reader(encoding: str, tmp_path: Path) -> None:
    info = written(tmp_path, encoding)
    with TensorReader() as reader:
        expected = reader.read_rows(info, 0, 2).float().flatten().tolist()
    assert read_numbers(info) == tuple(expected)


@pytest.mark.parametrize("encoding", ["F32", "BF16"])
def test_a_truncated_file_is_refused(encoding: str, tmp_path: Path) -> None:
    info = written(tmp_path, encoding)
    info.path.write_bytes(info.path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="ends in the middle of tensor 'frequencies': the file was cut short"):
        read_numbers(info)


INTEGERS = {"U8": torch.uint8, "I8": torch.int8, "I32": torch.int32, "I64": torch.int64}


@pytest.mark.parametrize("encoding", INTEGERS)
def test_integers_and_bytes_equal_those_of_the_reader(encoding: str, tmp_path: Path) -> None:
    values = torch.tensor([[3, 0], [127, 200 if encoding == "U8" else -128]]).to(INTEGERS[encoding])
    raw = bytes(values.view(torch.uint8).flatten().tolist())
    (tmp_path / "file").write_bytes(b"begin" + raw + b"end")
    info = TensorInfo("shape", (2, 2), encoding, tmp_path / "file", 5, len(raw))
    with TensorReader() as reader:
        expected = reader.read_rows(info, 0, 2).flatten().tolist()
    assert read_integers(info) == tuple(expected)
    assert read_integers(info, 1) == tuple(expected[:1])
    assert read_stored(info) == raw
    info.path.write_bytes(b"begin" + raw[:-1])
    assert read_integers(info, 1) == tuple(expected[:1])
    with pytest.raises(CheckpointError, match="ends in the middle of tensor 'shape': the file was cut short"):
        read_integers(info)
    with pytest.raises(CheckpointError, match="ends in the middle of tensor 'shape': the file was cut short"):
        read_stored(info)
