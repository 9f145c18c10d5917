"""The table of the page about scale: computed by the cost model for published sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmcli.checkpoint.load_packed import Packing, planned_formats
from llmcli.checkpoint.memory_estimate import footprint, parameter_bytes
from llmcli.docs import pages
from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig
from llmcli.model.config import LatentConfig
from llmcli.model.meta_device import meta_model
from llmcli.model.parallel.cost import CARDS, step_cost
from llmcli.model.parallel.split import Rank, rank_config
from llmcli.model.parameters import parameters_of
from llmcli.sizes import size
from tests.support.models.published_sizes import config

LLAMA_70B = config(
    80, vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_heads=64, num_kv_heads=8, head_dim=128,
    context_length=131072,
)  # fmt: skip
_EXPERTS = ExpertsConfig(256, 8, 2048, shared_size=2048, selection_bias=True)
DEEPSEEK_V3 = replace(
    config(
        61, vocab_size=129280, hidden_size=7168, intermediate_size=18432, num_heads=128, num_kv_heads=128,
        head_dim=192, context_length=163840, latent=LatentConfig(1536, 512, 128, 64, 128),
    ),
    layers=(LayerConfig(None),) * 3 + (LayerConfig(None, experts=_EXPERTS),) * 58,
)  # fmt: skip
CONTEXT = 4096
H200 = next(card for card in CARDS if card.name == "H200 SXM")


def row(name: str, model: ModelConfig, packing: Packing | None, count: int) -> str:
    """A row of the table: memory of a rank, and milliseconds of a token."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    part = meta_model(rank_config(model, Rank(0, count)))
    planned = planned_formats(part, packing, None, device)
    needed = footprint(part, planned, dtype, CONTEXT, device)
    cost = step_cost(model, count, H200, parameter_bytes(part, planned, dtype), CONTEXT)
    memory_ms, compute_ms = 1e3 * cost.read_bytes / H200.bandwidth, 1e3 * cost.operations / H200.operations
    link_ms = 1e3 * cost.seconds - max(memory_ms, compute_ms)
    return (
        f"| {name} | {count} | {size(needed.total)} | {compute_ms:.2f} | {memory_ms:.2f} | {link_ms:.2f} | "
        f"{cost.tokens_per_s:.0f} |"
    )


def test_the_published_sizes_have_the_published_numbers_of_parameters() -> None:
    counts = [sum(each.values for each in parameters_of(model).values()) for model in (LLAMA_70B, DEEPSEEK_V3)]
    assert [round(count / 1e9, 1) for count in counts] == [70.6, 671.0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 16, 64])
def test_the_table_of_large_models_is_what_the_cost_model_computes(count: int) -> None:
    page = pages.page("scale")
    for name, model, packing in (("70B, bfloat16", LLAMA_70B, None), ("671B, int8", DEEPSEEK_V3, "int8")):
        assert row(name, model, packing, count) in page  # type: ignore[arg-type]
