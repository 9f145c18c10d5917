"""Results do not depend on the order of a launch's programs, nor on the former contents of buffers.

Triton's interpreter runs programs in order, over buffers of zeros; these tests change the order and fill the buffers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from llmcli.kernels.select import slower_step
from llmcli.model import KVCache
from llmcli.model.quantized.layout import wide
from tests.support.kernels.triton_device import DEVICE, triton
from tests.support.models.parity_cases import CASES
from tests.support.models.random_models import pack_model, random_model

from llmcli.kernels.cuda.step import CudaStep  # isort: skip

INTERPRETED = pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU runs programs in its own order")
IDS = torch.randint(0, 70, (11,), generator=torch.Generator().manual_seed(1)).tolist()
READ = 3
Index = tuple[int, int, int]
Order = Callable[[list[Index]], Sequence[Index]]


def shuffled(programs: list[Index]) -> list[Index]:
    return random.Random(1).sample(programs, len(programs))


# Reversed, and shuffled.
ORDERS: tuple[Order, ...] = (lambda programs: programs[::-1], shuffled)


def run_in(order: Order, patch: pytest.MonkeyPatch) -> None:
    """Make the interpreter run the programs of each launch in this order."""
    builder = triton.runtime.interpreter.interpreter_builder
    set_grid_dim, set_grid_idx = builder.set_grid_dim, builder.set_grid_idx
    places: dict[Index, Index] = {}

    def dim(x: int, y: int, z: int) -> None:
        programs = [(i, j, k) for i in range(x) for j in range(y) for k in range(z)]
        places.clear()
        places.update(zip(programs, order(programs), strict=True))
        set_grid_dim(x, y, z)

    patch.setattr(builder, "set_grid_dim", dim)
    patch.setattr(builder, "set_grid_idx", lambda *index: set_grid_idx(*places[index]))


@pytest.mark.slow
@INTERPRETED
@pytest.mark.parametrize(
    ("name", "bits", "several"), [("gemma 2", None, 3), ("gpt-oss", None, 1), ("mixtral", 4, 1), ("olmo 2", 8, 1)]
)
def test_results_do_not_depend_on_the_order_of_programs(name: str, bits: int | None, several: int) -> None:
    model_type, overrides = CASES[name]
    sizes = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    model = random_model(model_type, **{**overrides, **sizes})
    if bits is not None:
        pack_model(model, wide(4 if bits == 4 else 8, 32))

    def run() -> tuple[torch.Tensor, KVCache]:
        step, cache = CudaStep(model, slower_step), model.new_cache(capacity=len(IDS))
        step.forward(IDS[:READ], cache)
        ids = IDS[READ : READ + several]
        plan = step._plan(1 if several == 1 else 4)
        if several == 1:
            # With several tokens some rows are padding, and must be finite.
            for buffer in plan._launches._buffers.values():
                buffer.fill_(torch.nan)
        return step.forward(ids, cache, only_last=False), cache

    logits, cache = run()
    assert logits.isfinite().all()
    for order in ORDERS:
        with pytest.MonkeyPatch.context() as patch:
            run_in(order, patch)
            other, other_cache = run()
        assert torch.equal(other, logits)
        for ours, theirs in zip(other_cache.layers, cache.layers, strict=True):
            assert torch.equal(ours.keys[:, :, : cache.length], theirs.keys[:, :, : cache.length])
            assert torch.equal(ours.values[:, :, : cache.length], theirs.values[:, :, : cache.length])
