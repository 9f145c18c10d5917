"""The allocator of tensors in huge pages."""

import gc
import os
from pathlib import Path

import pytest
import torch

from llmcli.model.cache.huge_pages import Pages


def test_tensors_of_one_piece_do_not_overlap() -> None:
    pages = Pages()
    shapes = [(3, 5), (1,), (7, 11, 13), (1000,), (0, 4)]
    tensors = [pages.empty(shape, torch.bfloat16).fill_(number) for number, shape in enumerate(shapes)]
    for number, (shape, tensor) in enumerate(zip(shapes, tensors, strict=True)):
        assert tensor.shape == shape
        assert bool((tensor == number).all())


def test_every_tensor_begins_on_a_cache_line() -> None:
    pages = Pages()
    assert all(pages.empty((size,), torch.uint8).data_ptr() % 64 == 0 for size in (1, 63, 64, 65, 1000))


def test_a_tensor_can_be_larger_than_a_piece() -> None:
    large = Pages().empty((40 << 20,), torch.uint8)
    large[-1] = 7
    assert len(large) == 40 << 20
    assert large[-1] == 7


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_memory_is_freed_with_the_last_tensor() -> None:
    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    before = mapped()
    pages = Pages()
    part = pages.empty((1 << 30,), torch.uint8)[5:6]
    gc.collect()
    assert mapped() - before >= 1 << 30
    part[0] = 3
    del part, pages
    gc.collect()
    assert mapped() - before < 1 << 29


def test_a_lack_of_memory_raises_memory_error() -> None:
    with pytest.raises(MemoryError):
        Pages().empty((1 << 60,), torch.uint8)
