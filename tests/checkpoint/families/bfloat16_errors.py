"""Rounding in bfloat16, of every family: our error beside that of `transformers`, both against its float32.

Run by hand, as it takes a minute: `python -m tests.checkpoint.families.bfloat16_errors`. It prints a line for each
family, and ends with exit code 1 if one of our errors is more than 1.5 times as large as that of `transformers`.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import llmcli
from tests.support.models.newer_cases import EAGER_IS_WRONG, NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model

_TEXTS, _LENGTH, _LARGEST = 12, 50, 1.5


def errors(model_type: str, overrides: dict[str, Any], folder: Path, *, eager: bool) -> tuple[float, float]:
    """Root mean square errors of the logits of several texts: ours, and that of `transformers`."""
    model = tiny_model(model_type, **overrides)
    if not eager:
        model.config._attn_implementation = "sdpa"
    ours = llmcli.load(save(model, folder), dtype="bfloat16", device="cpu")
    rounded = copy.deepcopy(model).bfloat16()
    # Several texts: one that rounding sends to another expert says little about rounding.
    ids = torch.tensor([random_ids(_LENGTH, seed=seed) for seed in range(_TEXTS)])
    with torch.inference_mode():
        exact = model(ids).logits
        found = [ours.model(ids), rounded(ids).logits]
    own, theirs = (float((logits.float() - exact).square().mean().sqrt()) for logits in found)
    return own, theirs


def main() -> int:
    """Print the errors of all families; returns the exit code."""
    failed = False
    for case, (model_type, overrides) in {**CASES, **NEWER}.items():
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = errors(model_type, overrides, Path(folder), eager=case not in EAGER_IS_WRONG)
        large = ours > _LARGEST * theirs
        failed |= large
        print(f"{case:45}{ours:9.5f}{theirs:9.5f}{ours / theirs:7.2f}{'  too large' if large else ''}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
