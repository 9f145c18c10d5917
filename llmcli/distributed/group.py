"""What ranks compute together, and how rank 0 talks to the others, by torch.distributed.

Messages and sums have process groups of their own: waiting for the next message may take hours, while a sum that takes
long means that a rank is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor

from llmcli.distributed.messages import Message, decoded, encoded
from llmcli.errors import RankError
from llmcli.model.parallel.split import Rank

# Bytes of a message that are sent at once: most messages fit, so they take one broadcast.
_INLINE = 1024
_HEADER = 8
_FOREVER = timedelta(days=365)


class Store(Protocol):
    """Where ranks leave words for each other: a store of torch.distributed."""

    def set(self, key: str, value: str) -> None:
        """Leave `value`."""

    def get(self, key: str) -> bytes:
        """Wait for the value of `key`."""

    def check(self, keys: list[str]) -> bool:
        """Whether all `keys` have values."""


class Group:
    """The ranks of a model: `Collectives`, and a channel from rank 0 to all others.

    Every method is called by all ranks in the same order. A rank that ended or does not answer makes it fail:

    Raises:
        RankError: another rank ended, or did not answer in time.
    """

    def __init__(
        self,
        rank: Rank,
        store: Store,
        device: torch.device,
        *,
        timeout: timedelta,
        reason: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Join the group; all ranks must. `reason` says why another rank ended, if that is known here."""
        self.rank, self._reason = rank, reason
        self.broken = False
        """Whether a collective has failed: then no other can work."""
        backend = "nccl" if device.type == "cuda" else "gloo"
        with self._failing():
            dist.init_process_group(
                backend, store=cast("Any", store), rank=rank.index, world_size=rank.count, timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )  # fmt: skip
            self._channel = dist.new_group(backend="gloo", timeout=_FOREVER)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the `x` of all ranks, which have one shape."""
        total = x.contiguous()
        with self._failing():
            dist.all_reduce(total)
        return total

    def concatenate(self, x: Tensor, sizes: list[int]) -> Tensor:
        """The `x` of all ranks along the last dimension, of which rank r has `sizes[r]`."""
        widest = max(sizes)
        padded = torch.nn.functional.pad(x, (0, widest - x.shape[-1])).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        with self._failing():
            dist.all_gather(parts, padded)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], dim=-1)

    def send_to(self, rank: int, x: Tensor) -> None:
        """Send `x` to a rank, which receives it."""
        with self._failing():
            dist.send(x.contiguous(), rank)

    def receive_from(self, rank: int, like: Tensor) -> Tensor:
        """A tensor of the shape, type and device of `like` from a rank, which sends it."""
        received = torch.empty_like(like)
        with self._failing():
            dist.recv(received, rank)
        return received

    def send(self, name: str, arguments: Sequence[Any] = ()) -> None:
        """Send a message from rank 0 to all others."""
        data = encoded(name, arguments)
        head = torch.zeros(_INLINE, dtype=torch.uint8)
        size = len(data).to_bytes(_HEADER, "little")
        first = size + data[: _INLINE - _HEADER]
        head[: len(first)] = torch.frombuffer(bytearray(first), dtype=torch.uint8)
        with self._failing():
            dist.broadcast(head, 0, group=self._channel)
            if rest := data[_INLINE - _HEADER :]:
                dist.broadcast(torch.frombuffer(bytearray(rest), dtype=torch.uint8), 0, group=self._channel)

    def receive(self) -> Message:
        """Wait for the next message of rank 0."""
        head = torch.empty(_INLINE, dtype=torch.uint8)
        with self._failing():
            dist.broadcast(head, 0, group=self._channel)
            first = bytes(head.tolist())
            size = int.from_bytes(first[:_HEADER], "little")
            data = first[_HEADER : _HEADER + size]
            if left := size - len(data):
                rest = torch.empty(left, dtype=torch.uint8)
                dist.broadcast(rest, 0, group=self._channel)
                data += bytes(rest.tolist())
        return decoded(data)

    def close(self) -> None:
        """Leave the group; another can be made then."""
        dist.destroy_process_group()

    def _failing(self) -> _Failing:
        return _Failing(self)

    def failure(self, error: Exception) -> RankError:
        """The error for a collective that failed."""
        self.broken = True
        return RankError(self._reason() or f"Another of the {self.rank.count} ranks ended or does not answer.")


class _Failing:
    """Turns errors of torch.distributed into `RankError`."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            raise self._group.failure(error) from error
