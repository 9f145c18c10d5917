"""Capture kernel launches in a CUDA graph, and clean up after a capture that fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

# One stream per device: PyTorch's libraries allocate a workspace for each stream they are used with, and keep it.
_streams: dict[torch.device, torch.cuda.Stream] = {}
# Kept alive although unused: PyTorch's allocator may still ask them whether they are capturing.
_failed: list[torch.cuda.CUDAGraph] = []


def capture_graph(launch: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Capture what `launch` launches on a CUDA `device`, without running it.

    `launch` must have run once before, so that its kernels are compiled.

    Raises:
        Exception: an error of `launch`, or a RuntimeError if an operation cannot be captured.
    """
    torch.cuda.synchronize(device)
    # A graph allocates from a separate pool: free the cached memory for it.
    torch.cuda.empty_cache()
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    # Not `torch.cuda.graph`: it uses one stream for the graphs of all devices, and after a capture that failed it
    # leaves that stream current.
    with torch.cuda.stream(_streams[device]):
        try:
            # Other threads may keep using the device.
            graph.capture_begin(capture_error_mode="thread_local")
            launch()
        except BaseException:
            # Also after an interruption: the capture must end.
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
