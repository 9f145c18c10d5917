"""Reading many tokens into a KV cache in pieces, so that no activation is larger than it needs to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llmcli.model import KVCache, Transformer

# As the engine reads: long enough to keep the cores busy, short enough for small masks.
_CHUNK = 512


@torch.inference_mode()
def read(
    model: Transformer, cache: KVCache, ids: Sequence[int], *, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """Read `ids`, at least one, after what `cache` holds; return the logits (V,) after the last of them.

    `progress` hears how many of them have been read.
    """
    if not ids:
        raise ValueError("there is nothing to read")
    logits = torch.empty(0)
    for start in range(0, len(ids), _CHUNK):
        chunk = torch.tensor([list(ids[start : start + _CHUNK])], device=model.device)
        logits = model(chunk, cache, only_last=True)
        if progress is not None:
            progress(min(start + _CHUNK, len(ids)), len(ids))
    return logits[0, -1]
