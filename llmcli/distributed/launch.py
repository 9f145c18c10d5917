"""Starting the ranks of this machine, or joining those that torchrun has started, and ending them.

Ranks on one machine meet through a file in a private folder, and talk through the loopback interface only. With
torchrun's variables they meet at MASTER_ADDR, where rank 0 listens at that address and no other.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.distributed.environment import Launched
from llmcli.errors import RankError, UsageError
from llmcli.model.parallel.split import Rank

if TYPE_CHECKING:
    import torch

    from llmcli.distributed.group import Group, Store

TIMEOUT_VARIABLE = "LLMCLI_RANK_TIMEOUT"
"""Environment variable: seconds until a rank that does not answer counts as gone."""
FOLDER_VARIABLE = "_LLMCLI_RANKS_FOLDER"
"""Environment variable of the ranks that rank 0 starts: the folder where they meet."""
_TIMEOUT_S = 60
# Until all ranks have started: importing torch from a cold disk takes half a minute.
_START_TIMEOUT_S = 300
_END_TIMEOUT_S = 5
_POLL_S = 0.02
_SIGN_EVERY_S = 1


class Ranks:
    """The other ranks, as rank 0 sees them."""

    def __init__(self, count: int, children: Mapping[int, subprocess.Popen[bytes]], store: Store) -> None:
        self.rank = Rank(0, count)
        self._children, self._store = children, store
        self._group: Group | None = None
        self._ended = False
        # Of each rank that is loading, its last sign of life, and when it came.
        self._alive: dict[int, tuple[bytes, float]] = {}
        atexit.register(self.end)

    @property
    def processes(self) -> list[int]:
        """The ids of the processes that were started on this machine."""
        return [child.pid for child in self._children.values()]

    def join(self, device: torch.device) -> Group:
        """Make the group, when all ranks have started.

        Raises:
            RankError: a rank ended, did not start in time, or runs another version of this program.
        """
        from llmcli.distributed.group import Group

        self._store.set("device", device.type)
        for index in range(1, self.rank.count):
            check_versions(index, self._reported("started", index, _START_TIMEOUT_S))
        self._group = Group(self.rank, self._store, device, timeout=timeout(), reason=self.reason)
        return self._group

    def wait_until_loaded(self) -> None:
        """Wait until all ranks have loaded their parts.

        Raises:
            RankError: one of them could not.
        """
        for index in range(1, self.rank.count):
            error = self._reported("loaded", index, None)
            if error:
                raise RankError(f"Rank {index}: {error}")
            self._alive.pop(index, None)

    def reason(self) -> str | None:
        """Why a rank ended, as a sentence; None if that is not known here."""
        time.sleep(_POLL_S)
        for index in range(1, self.rank.count):
            if self._store.check([f"failed/{index}"]):
                return f"Rank {index} of {self.rank.count} failed: {self._store.get(f'failed/{index}').decode()}"
        for index, child in self._children.items():
            code = child.poll()
            if code is None:
                continue
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return f"Rank {index} of {self.rank.count} {how}, so the model is incomplete. Start again."
        return None

    def check(self) -> None:
        """Raise `RankError` if a rank has ended, reported an error, or given no sign of life for too long."""
        for index in range(1, self.rank.count):
            key = f"loaded/{index}"
            if self._store.check([key]):
                if error := self._store.get(key).decode():
                    raise RankError(f"Rank {index}: {error}")
            elif self._store.check([f"alive/{index}"]):
                self._check_sign(index, self._store.get(f"alive/{index}"))
        if any(child.poll() is not None for child in self._children.values()):
            raise RankError(self.reason() or "")

    def end(self) -> None:
        """End all ranks: those of this machine are gone when it returns."""
        if self._ended:
            return
        self._ended = True
        atexit.unregister(self.end)
        broken = self._group is None or self._group.broken
        if self._group is not None:
            if not broken and self.reason() is None:
                with suppress(RankError):
                    self._group.send("end")
            self._group.close()
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()
        end = time.monotonic() + (0 if broken else _END_TIMEOUT_S)
        while time.monotonic() < end and any(child.poll() is None for child in self._children.values()):
            time.sleep(_POLL_S)
        for child in self._children.values():
            child.kill()
            child.wait()

    def _check_sign(self, index: int, sign: bytes) -> None:
        now = time.monotonic()
        last, since = self._alive.setdefault(index, (sign, now))
        if last != sign:
            self._alive[index] = sign, now
        elif now - since > timeout().total_seconds():
            raise RankError(
                f"Rank {index} of {self.rank.count} has not answered for {now - since:.0f} seconds while it loaded the "
                "model. It may be stopped, or its machine unreachable."
            )

    def _reported(self, what: str, index: int, limit_s: float | None) -> str:
        """What rank `index` has reported, once it has."""
        end = None if limit_s is None else time.monotonic() + limit_s
        while not self._store.check([f"{what}/{index}"]):
            self.check()
            if end is not None and time.monotonic() > end:
                raise RankError(f"Rank {index} of {self.rank.count} did not start within {limit_s:.0f} seconds.")
            time.sleep(_POLL_S)
        return self._store.get(f"{what}/{index}").decode()


def start_ranks(count: int, threads: int) -> Ranks:
    """Start the ranks 1 to `count` - 1 on this machine, or take those that torchrun has started.

    `threads` are those of each rank that is started here, on a CPU.

    Raises:
        UsageError: torchrun has started another number of ranks.
    """
    launched = Launched.of(os.environ)
    if launched is not None:
        if launched.rank.count != count:
            raise UsageError(
                f"There are {launched.rank.count} ranks (WORLD_SIZE), but the model is to be split over {count}."
            )
        return Ranks(count, {}, meeting_point(launched))
    os.environ.update(_loopback())
    folder = Path(tempfile.mkdtemp(prefix="llmcli-ranks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    children = {
        index: subprocess.Popen(
            [sys.executable, "-m", "llmcli.distributed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **_environment(index, count, folder, threads)},
        )
        for index in range(1, count)
    }
    return Ranks(count, children, file_store(folder, count))


def file_store(folder: Path, count: int) -> Store:
    """The store of `count` ranks of one machine, in a folder that only this user can read."""
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    store: Store = FileStore(str(folder / "store"), count)
    return store


def meeting_point(launched: Launched) -> Store:
    """The store through which ranks of several machines find each other."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    first = launched.rank.index == 0 and not agent
    # Without this socket, the store would listen on all interfaces.
    listening = socket.create_server((launched.address, launched.port)).detach() if first else None
    store: Store = TCPStore(
        launched.address,
        launched.port,
        launched.rank.count,
        first,
        timedelta(seconds=_START_TIMEOUT_S),
        wait_for_workers=False,
        master_listen_fd=listening,
    )
    return store


def version() -> str:
    """What must be the same in all ranks."""
    import torch

    from llmcli import __version__

    return json.dumps({"llmcli": __version__, "torch": torch.__version__})


def check_versions(index: int, reported: str) -> None:
    """Raise `RankError` unless rank `index` runs the same versions as this one."""
    theirs, ours = json.loads(reported), json.loads(version())
    for name, own in ours.items():
        if theirs.get(name) != own:
            raise RankError(
                f"Rank {index} runs {name} {theirs.get(name)} and rank 0 {own}. All ranks need the same version."
            )


def timeout() -> timedelta:
    """How long ranks wait for each other in a pass."""
    return timedelta(seconds=float(os.environ.get(TIMEOUT_VARIABLE) or _TIMEOUT_S))


@contextmanager
def signs_of_life(store: Store, index: int) -> Iterator[None]:
    """Inside the block, rank `index` lets rank 0 know once a second that it is alive."""
    ended = threading.Event()

    def tell() -> None:
        number = 0
        while not ended.wait(_SIGN_EVERY_S):
            store.set(f"alive/{index}", str(number := number + 1))

    thread = threading.Thread(target=tell, daemon=True, name="signs of life")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, which closes this one's stdin."""

    def wait() -> None:
        # Not through a buffer, whose lock would be held when this process ends by itself.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end with rank 0").start()


def _environment(index: int, count: int, folder: Path, threads: int) -> dict[str, str]:
    return {
        "RANK": str(index),
        "WORLD_SIZE": str(count),
        FOLDER_VARIABLE: str(folder),
        "OMP_NUM_THREADS": str(threads),
        "LLMCLI_PLAIN_IMPORT": "1",
    }


def _loopback() -> dict[str, str]:
    """Variables that make ranks of one machine talk over the loopback interface."""
    name = "lo0" if sys.platform == "darwin" else "lo"
    return {f"{library}_SOCKET_IFNAME": name for library in ("GLOO", "NCCL")}
