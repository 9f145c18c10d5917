"""The program of a rank other than 0: it loads its part of the model, and then follows rank 0."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.rank_part import fingerprint
from llmcli.distributed.environment import Launched
from llmcli.distributed.follower import follow
from llmcli.distributed.group import Group
from llmcli.distributed.launch import (
    FOLDER_VARIABLE,
    end_with_parent,
    file_store,
    meeting_point,
    signs_of_life,
    timeout,
    version,
)
from llmcli.distributed.messages import LoadOrder
from llmcli.distributed.part import load_part, part_of
from llmcli.errors import LlmcliError, RankError
from llmcli.hub.resolve import resolve
from llmcli.model.parallel.split import Rank
from llmcli.model.transformer import Transformer


def load_ordered(order: LoadOrder, rank: Rank, group: Group, device: torch.device) -> Transformer:
    """Load the part that `rank` has of the model that rank 0 names.

    Raises:
        LlmcliError: it cannot be loaded, or its files are not those of rank 0.
    """
    checkpoint = open_checkpoint(resolve(order.path))
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, int8_cache=order.int8_cache))
    if fingerprint(checkpoint) != order.fingerprint:
        raise RankError(f"{checkpoint.path} differs from the model that rank 0 has. All ranks need the same files.")
    return load_part(checkpoint, part_of(checkpoint, rank, order.stages), order, group, device)


def main() -> int:
    """Run a rank; its exit code."""
    # Rank 0 decides what Ctrl-C means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if folder := os.environ.get(FOLDER_VARIABLE):
        end_with_parent()
        rank = Rank(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        local, store = rank.index, file_store(Path(folder), rank.count)
    else:
        launched = Launched.of(os.environ)
        assert launched is not None
        rank, local, store = launched.rank, launched.local, meeting_point(launched)
    try:
        store.set(f"started/{rank.index}", version())
        device = rank_device(store.get("device").decode(), local)
        group = Group(rank, store, device, timeout=timeout())
        name, arguments = group.receive()
        if name == "end":
            return 0
        try:
            with signs_of_life(store, rank.index):
                model = load_ordered(LoadOrder(*arguments), rank, group, device)
        except LlmcliError as error:
            store.set(f"loaded/{rank.index}", str(error))
            # Rank 0 reports it.
            group.receive()
            return 1
        store.set(f"loaded/{rank.index}", "")
        follow(model, group)
    except RankError:
        # Rank 0 ended, or reports which rank did.
        return 1
    except Exception as error:
        message = str(error) if isinstance(error, LlmcliError) else f"{type(error).__name__}: {error}"
        store.set(f"failed/{rank.index}", message)
        if os.environ.get("LLMCLI_DEBUG") == "1":
            raise
        return 1
    return 0


def rank_device(kind: str, local: int) -> torch.device:
    """The device of a rank: one GPU for each rank of a machine."""
    if kind != "cuda":
        return torch.device(kind)
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
