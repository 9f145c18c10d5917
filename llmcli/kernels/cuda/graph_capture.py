"""Recording what is launched into a CUDA graph, so that a recording that fails leaves nothing behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

# One for each device: PyTorch's libraries make memory to work in for each stream they meet, and keep it.
_streams: dict[torch.device, torch.cuda.Stream] = {}
# Never used again, but PyTorch's allocator may go on asking them whether they record.
_failed: list[torch.cuda.CUDAGraph] = []


def recorded(launch: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of what `launch` asks of a CUDA `device`; it must have been called before, and nothing is computed.

    Raises:
        Exception: whatever `launch` raises, or a RuntimeError, where something cannot be recorded.
    """
    torch.cuda.synchronize(device)
    # A graph's memory is its own; what lies idle should not be lacking there.
    torch.cuda.empty_cache()
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    # Not by `torch.cuda.graph`: it has one stream for the graphs of all devices, and after a recording that failed it
    # leaves that as the current one.
    with torch.cuda.stream(_streams[device]):
        try:
            # Other threads may go on with what they do.
            graph.capture_begin(capture_error_mode="thread_local")
            launch()
        except BaseException:
            # An interruption too: nothing may go on being recorded.
            with suppress(RuntimeError):
                _end(graph)
            raise
        _end(graph)
    return graph


def _end(graph: torch.cuda.CUDAGraph) -> None:
    try:
        graph.capture_end()
    except BaseException:
        _failed.append(graph)
        raise
