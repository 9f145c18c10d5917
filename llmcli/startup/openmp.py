"""Torch's OpenMP threads: how they wait for work, and how many there are.

By default a waiting thread occupies its core for milliseconds before it sleeps. If another program needs the core, the
thread that has work to do waits meanwhile, thousands of times in a command: on two cores beside one busy process,
commands that run the readable model took 3 to 16 times as long.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

# GNU's library, which torch's wheels contain, and that of LLVM and Intel, which some builds use instead. 1000 rounds
# take microseconds; with 0, commands take 10 to 30 % longer on an idle machine, where each operation wakes a thread.
_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_OTHER_WAITING = ("OMP_WAIT_POLICY", "KMP_LIBRARY")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def set_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Let waiting threads sleep soon, unless the user has chosen how they wait.

    The library reads `environment` once, when it is loaded with torch.
    """
    if not any(environment.get(name) for name in (*_WAITING, *_OTHER_WAITING)):
        environment.update(_WAITING)


def without_wait_policy(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without what `set_wait_policy` has set, for other programs that are measured."""
    if any(environment.get(name) != value for name, value in _WAITING.items()):
        return dict(environment)
    return {name: value for name, value in environment.items() if name not in _WAITING}


def set_torch_threads(threads: int | None) -> None:
    """Let torch compute with `threads` threads; None: with no more than the C kernel, unless the user has chosen.

    Torch's default is a thread for each core of the machine, also in a container whose CPU quota is smaller.
    """
    import torch

    from llmcli.kernels.cpu.threads import default_threads

    if threads is None and not any(os.environ.get(name) for name in _THREADS):
        threads = min(torch.get_num_threads(), default_threads())
    if threads is not None and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
