"""What the variables of torchrun, or of another launcher, say about this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmcli.errors import UsageError
from llmcli.model.parallel.split import Rank


@dataclass(frozen=True)
class Launched:
    """One of the processes that torchrun, or another launcher, has started."""

    rank: Rank
    local: int
    """Its number among the ranks of this machine."""
    local_count: int
    address: str
    port: int

    @staticmethod
    def of(environment: Mapping[str, str]) -> Launched | None:
        """What the variables of torchrun say; None: there are none, or there is only one rank.

        Raises:
            UsageError: a variable is missing or no number.
        """
        if int(environment.get("WORLD_SIZE") or "1") < 2:
            return None
        try:
            rank = Rank(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
            address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK, MASTER_ADDR and MASTER_PORT are not all set to "
                f"match ({error}). Start the ranks with torchrun, or unset WORLD_SIZE."
            ) from None
        local = int(environment.get("LOCAL_RANK") or rank.index)
        return Launched(rank, local, int(environment.get("LOCAL_WORLD_SIZE") or rank.count), address, port)


def is_follower(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as a rank other than 0."""
    launched = Launched.of(environment)
    return launched is not None and launched.rank.index > 0


def rank_count(asked: int, environment: Mapping[str, str]) -> int:
    """The number of ranks: as `asked`, or if that is 1 as many as a launcher has started."""
    launched = Launched.of(environment)
    return asked if asked > 1 or launched is None else launched.rank.count
