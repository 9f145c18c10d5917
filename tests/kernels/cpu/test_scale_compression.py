"""The upper bits of scales and minima of 4 bits, which are read only where they do not follow from the lower ones."""

from __future__ import annotations

import pytest
import torch

from llmcli.engine import SamplingParams
from llmcli.kernels.cpu.build import Variant, load_library
from llmcli.kernels.cpu.step import CpuStep
from llmcli.kernels.sampling_filters import SamplingRequest
from llmcli.model import Transformer
from llmcli.model.quantized.layout import narrow
from llmcli.model.quantized.matrix import Groups, PackedMatrix, QuantizedLinear
from tests.support.kernels.cpu_step import assert_close
from tests.support.models.random_models import pack_model, random_model

ROWS, COLUMNS, GROUPS = 60, 264, 9


def halves(least: int, most: int, seed: int) -> torch.Tensor:
    """Numbers of 16 bits from `least` to `most`, both of which are in every 16 rows: (ROWS, GROUPS) float16."""
    random = torch.Generator().manual_seed(seed)
    bits = torch.randint(least, most + 1, (ROWS, GROUPS), generator=random)
    if least < 0x8000 <= most:  # between them is what is no number
        bits = torch.where(bits < 0x7000, least, most)
    bits[3::16, 2], bits[5::16, 4] = least, most
    return bits.to(torch.int16).view(torch.float16)


def model_with_head(scale: torch.Tensor, minimum: torch.Tensor) -> Transformer:
    sizes = {"vocab_size": ROWS, "hidden_size": COLUMNS, "tie_word_embeddings": False}
    model = pack_model(random_model("llama", **sizes), 8)
    matrix = PackedMatrix(narrow(4), ROWS, COLUMNS, dtype=torch.float32)
    codes = torch.randint(0, 16, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    matrix.store(0, 0, Groups(codes, scale, minimum))
    model.lm_head = QuantizedLinear(matrix)
    return model


# The greatest of a half's 16 bits are a sign and the upper three of an exponent.
@pytest.mark.parametrize("variant", ["native", "avx2", "portable"])
@pytest.mark.parametrize(
    ("scales", "minima", "follow"),
    [
        ((0x2000, 0x2FFF), (0xA000, 0xAFFF), True),
        ((0x2C10, 0x3C0F), (0xABCD, 0xBBCC), True),
        ((0x2C10, 0x3C10), (0xABCD, 0xBBCC), False),
        ((0x2C10, 0x3C0F), (0xABCD, 0xBBCD), False),
        ((0x0400, 0x0400), (0x2C00, 0x2C00), True),
        ((0x0001, 0x0FFF), (0x8001, 0x8FFF), True),
        ((0x0000, 0x0400), (0x0000, 0x0000), False),
        ((0x2C00, 0x3000), (0x2C00, 0xAC00), False),
    ],
)
def test_numbers_are_what_they_were(
    scales: tuple[int, int], minima: tuple[int, int], follow: bool, variant: Variant
) -> None:
    model = model_with_head(halves(*scales, seed=1), halves(*minima, seed=2))
    step = CpuStep(model, threads=2, library=load_library(variant))
    cache = model.new_cache()
    for count in (1, 1, 5, 17):
        ids = list(range(7, 7 + count))
        cache.truncate(0)
        assert_close(model, 4, step.forward(ids, cache, only_last=False), ids)
    before = step.unread_bytes
    cache.truncate(0)
    step.forward_burst(7, cache, SamplingRequest(SamplingParams(temperature=1.0), [0.5, 0.1, 0.9], ROWS))
    # The last of four row blocks is filled up with zeros, from which its numbers are too far. Behind the numbers of 9
    # groups a line is filled up.
    assert step.unread_bytes - before == 3 * ((3 if follow else 0) * GROUPS * 16 - 4 * 16)


@pytest.mark.parametrize("place", [0, 1])
def test_every_half_is_kept(place: int) -> None:
    every = torch.arange(1 << 16).to(torch.int16).view(64, 1024)
    numbers = torch.zeros(2, 64, 1024, dtype=torch.int16)
    numbers[place], numbers[1 - place] = every, 0x2C01
    scale, minimum = numbers.view(torch.float16)
    matrix = PackedMatrix(narrow(4), 64, 1024 * 32, dtype=torch.float32)
    matrix.store(0, 0, Groups(torch.zeros(64, 1024 * 32, dtype=torch.uint8), scale, minimum))
    held = matrix.format.read(matrix.format.views(matrix.blocks, matrix.rest, matrix.columns))[1]
    found = held.view(torch.int16).permute(2, 0, 3, 1).reshape(2, 64, 1024)
    assert torch.equal(found, numbers)
