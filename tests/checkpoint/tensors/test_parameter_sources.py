"""Parameter sources, read in small chunks, against plain indexing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llmcli.checkpoint.tensors.parameter_sources import (
    Joined,
    PairedRows,
    ParameterSource,
    Rearranged,
    Source,
    Stacked,
    match_tensors,
)
from llmcli.checkpoint.tensors.reader import TensorReader
from llmcli.checkpoint.tensors.tensor_info import RowReader, StoredTensor
from llmcli.errors import CheckpointError
from tests.support.models.safetensors_folder import read_safetensors_folder

torch.manual_seed(0)
TENSORS = {
    "matrix": torch.randn(12, 10),
    "vector": torch.randn(12),
    "stack": torch.randn(3, 8, 10),
    "biases": torch.randn(3, 8),
    "other": torch.randn(4, 10),
    "half": torch.randn(12, 10).to(torch.bfloat16),
    "whole numbers": torch.ones(12, 10, dtype=torch.int32),
}
EVEN_ODD = (slice(0, None, 2), slice(1, None, 2))
LAYOUTS: dict[str, tuple[ParameterSource, Callable[[dict[str, Tensor]], Tensor]]] = {
    "whole": (Source("matrix"), lambda t: t["matrix"]),
    "some rows": (Source("matrix", None, ((2, 5), (9, 12)), 12), lambda t: t["matrix"][[2, 3, 4, 9, 10, 11]]),
    "some numbers": (Source("vector", None, ((2, 5),), 12), lambda t: t["vector"][2:5]),
    "pairs": (Source("matrix", PairedRows(4)), lambda t: t["matrix"][[0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11]]),
    "some of each head in pairs": (
        Source("vector", PairedRows(6, 1, 4)),
        lambda t: t["vector"][[0, 1, 3, 2, 4, 5, 6, 7, 9, 8, 10, 11]],
    ),
    "pairs of some rows": (
        Source("matrix", PairedRows(4), ((4, 8),), 12),
        lambda t: t["matrix"][[4, 6, 5, 7]],
    ),
    "transposed": (Rearranged("matrix", transposed=True), lambda t: t["matrix"].T),
    "columns, transposed": (Rearranged("matrix", True, (slice(3, 7),)), lambda t: t["matrix"].T[3:7]),
    "columns in another order": (
        Rearranged("biases", picks=EVEN_ODD),
        lambda t: torch.cat((t["biases"][:, ::2], t["biases"][:, 1::2]), 1),
    ),
    "stack, transposed": (Rearranged("stack", transposed=True), lambda t: t["stack"].transpose(1, 2)),
    "stack, rows in another order": (
        Rearranged("stack", picks=EVEN_ODD),
        lambda t: torch.cat((t["stack"][:, ::2], t["stack"][:, 1::2]), 1),
    ),
    "stack, transposed, in another order": (
        Rearranged("stack", True, EVEN_ODD),
        lambda t: torch.cat((t["stack"].mT[:, ::2], t["stack"].mT[:, 1::2]), 1),
    ),
    "joined": (Joined((Source("matrix"), Source("other"))), lambda t: torch.cat((t["matrix"], t["other"]))),
    "stacked": (
        Stacked((Joined((Source("matrix"), Source("other"))), Joined((Source("half"), Source("other"))))),
        lambda t: torch.stack((torch.cat((t["matrix"], t["other"])), torch.cat((t["half"].float(), t["other"])))),
    ),
}


@dataclass(frozen=True)
class Decoded:
    """A tensor that can only be read by rows, like quantized ones."""

    name: str
    values: Tensor
    nbytes: int = 1
    encoding: str = "codes"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def read_rows(self, reader: RowReader, start: int, stop: int) -> Tensor:
        assert 0 <= start < stop <= len(self.values)
        return self.values[start:stop].float().reshape(stop - start, -1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredTensor]:
    folder: Path = tmp_path_factory.mktemp("tensors")
    save_file(TENSORS, folder / "model.safetensors")
    return dict(read_safetensors_folder(folder))


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sources_read_what_plain_indexing_gives(
    files: dict[str, StoredTensor], layout: str, decoded: bool, chunk: int
) -> None:
    source, expected = LAYOUTS[layout]
    stored: dict[str, StoredTensor] = (
        {name: Decoded(name, values) for name, values in TENSORS.items()} if decoded else files
    )
    wanted = expected(TENSORS)
    assert source.shape(stored) == tuple(wanted.shape)
    for dtype in (torch.float32, torch.bfloat16):
        target = torch.full(wanted.shape, torch.nan, dtype=dtype)
        with TensorReader(arranged_at_once=chunk) as reader:
            source.read_into(stored, reader, target)
        assert torch.equal(target, wanted.to(dtype))


@pytest.mark.parametrize(
    "source",
    [
        Source("matrix", None, ((0, 4),), 13),
        Rearranged("vector"),
        Joined((Source("matrix"), Source("stack"))),
        Stacked((Source("matrix"), Source("other"))),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(files: dict[str, StoredTensor], source: ParameterSource) -> None:
    with pytest.raises(CheckpointError, match=source.names[-1]):
        source.shape(files)


def test_integer_tensors_are_refused_as_weights(files: dict[str, StoredTensor]) -> None:
    for source in (Source("whole numbers", None, ((0, 6),), 12), Rearranged("whole numbers")):
        with TensorReader() as reader, pytest.raises(CheckpointError, match="whole numbers"):
            source.read_into(files, reader, torch.empty(source.shape(files)))


def test_all_parameters_and_tensors_are_matched(files: dict[str, StoredTensor]) -> None:
    wanted: dict[str, tuple[int, ...]] = {"a": (12, 10), "b": (10, 12)}
    layouts: dict[str, ParameterSource] = {"a": Source("matrix"), "b": Rearranged("half", transposed=True)}

    def match(shapes: dict[str, tuple[int, ...]], ignored: str = "s") -> list[str]:
        return match_tensors(
            shapes,
            layouts.__getitem__,
            {name: files[name] for name in ("matrix", "half", "other", "stack")},
            ignored=lambda name: name.startswith(ignored),
            belongs=lambda name: name == "stack",
            where="here",
        )[1]

    assert match(wanted) == ["here also holds the tensor other, which is not used."]
    with pytest.raises(CheckpointError, match=r"stack.*does not describe"):
        match(wanted, ignored="x")
    with pytest.raises(CheckpointError, match=r"half has shape \[10, 12\].* says \[12, 10\]"):
        match({**wanted, "b": (12, 10)})
    layouts["b"] = Source("nothing")
    with pytest.raises(CheckpointError, match="lacks the tensor nothing"):
        match(wanted)
