"""A capture that fails restores the stream and raises the first error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from llmcli.kernels.cuda.graph_capture import capture_graph

ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Driver:
    """A fake CUDA driver: the current stream, and whether it is capturing."""

    def __init__(self, patch: pytest.MonkeyPatch, *, ends: bool) -> None:
        self.stream, self.capturing, self.ends = "default", False, ends
        patch.setattr("torch.cuda.synchronize", lambda _device: None)
        patch.setattr("torch.cuda.empty_cache", lambda: None)
        patch.setattr("torch.cuda.Stream", lambda device: f"side of {device}")
        patch.setattr("torch.cuda.stream", self.current)
        patch.setattr("torch.cuda.CUDAGraph", lambda: self)
        patch.setattr("llmcli.kernels.cuda.graph_capture._streams", {})

    @contextmanager
    def current(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def capture_begin(self, *, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local" and self.stream != "default"
        self.capturing = True

    def capture_end(self) -> None:
        self.capturing = False
        if not self.ends:
            raise RuntimeError("capture was invalidated")


def failing(error: BaseException) -> Callable[[], None]:
    def launch() -> None:
        raise error

    return launch


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("may not synchronise"), KeyboardInterrupt("pressed")])
def test_an_error_of_a_launch_is_raised(error: BaseException, ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, ends=ends)
    with pytest.raises(type(error), match=str(error)):
        capture_graph(failing(error), torch.device("cuda:0"))
    assert (driver.stream, driver.capturing) == ("default", False)


def test_each_device_captures_on_a_separate_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, seen = Driver(monkeypatch, ends=True), []
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        capture_graph(lambda: seen.append((driver.stream, driver.capturing)), torch.device(device))
    assert seen == [("side of cuda:0", True), ("side of cuda:1", True), ("side of cuda:0", True)]
    driver.ends = False
    with pytest.raises(RuntimeError, match="invalidated"):
        capture_graph(lambda: None, torch.device("cuda:0"))
    assert driver.stream == "default"


@pytest.mark.cuda
@ON_A_GPU
def test_a_gpu_works_after_a_failed_capture() -> None:
    x, y = (torch.ones(4, device="cuda") for _ in range(2))
    before = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capture_graph(lambda: x.sum().item(), x.device)
    assert torch.cuda.current_stream() == before

    def launch() -> None:
        y.copy_(x.cumsum(0).flip(0))

    launch()
    graph = capture_graph(launch, x.device)
    x.fill_(2)
    graph.replay()
    assert y.tolist() == [8, 6, 4, 2]
