"""The cost of a decode step: bytes, sums and the experts of the busiest rank."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from llmcli.model.parallel.cost import CARDS, MACHINE, NETWORK_LATENCY, assumed_card, most_experts, step_cost
from llmcli.model.parallel.split import Rank, rank_config
from llmcli.model.parameters import parameters_of
from tests.support.models.published_sizes import LLAMA3_8B, MIXTRAL_8X7B

H100 = next(card for card in CARDS if card.name == "H100 SXM")


def nbytes(config: object, count: int) -> dict[str, int]:
    part = config if count == 1 else rank_config(config, Rank(0, count))  # type: ignore[arg-type]
    return {name: 2 * parameter.values for name, parameter in parameters_of(part).items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(("chosen", "ranks"), [(1, 3), (2, 2), (2, 8), (3, 4), (4, 3)])
def test_the_experts_of_the_busiest_rank_equal_a_count_of_all_cases(chosen: int, ranks: int) -> None:
    cases = [max(Counter(case).values()) for case in itertools.product(range(ranks), repeat=chosen)]
    assert most_experts(chosen, ranks) == pytest.approx(sum(cases) / len(cases))


def test_a_step_on_one_rank_reads_the_weights_and_the_cache_once() -> None:
    cost = step_cost(LLAMA3_8B, 1, H100, nbytes(LLAMA3_8B, 1), 1000)
    # All but the embedding, and keys and values of 8 heads of 128 in 32 layers.
    weights = 2 * (8_030_261_248 - 128_256 * 4096)
    assert cost.read_bytes == weights + 1000 * 32 * 2 * 8 * 128 * 2
    assert (cost.collectives, cost.link_bytes) == (0, 0)
    assert cost.tokens_per_s == pytest.approx(3.35e12 / cost.read_bytes)


def test_ranks_share_the_bytes_and_wait_for_two_sums_in_each_layer() -> None:
    one, eight, sixteen = (step_cost(LLAMA3_8B, n, H100, nbytes(LLAMA3_8B, n), 1000) for n in (1, 8, 16))
    assert eight.read_bytes == pytest.approx(one.read_bytes / 8, rel=1e-3)
    # And one for the embedding, and the logits put together.
    assert eight.collectives == 2 * 32 + 2
    assert eight.link_bytes == 2 * (2 * 65 * 4096 + 128_256) * 7 // 8
    seconds = eight.read_bytes / 3.35e12 + 66 * H100.latency + eight.link_bytes / H100.link
    assert eight.seconds == pytest.approx(seconds)
    # Beyond a machine the network is slower.
    assert MACHINE == 8 and sixteen.seconds > 66 * NETWORK_LATENCY > eight.seconds


def test_the_busiest_rank_reads_more_experts_than_its_share() -> None:
    cost = step_cost(MIXTRAL_8X7B, 8, H100, nbytes(MIXTRAL_8X7B, 8), 1)
    experts = 3 * 4096 * 14336 * 2 * 32
    # Of two choices among eight ranks, the busiest has 9/8 on average.
    assert 9 / 8 * experts < cost.read_bytes < 9 / 8 * experts + 0.5e9


def test_the_nearest_card_is_assumed() -> None:
    assert [assumed_card(gigabytes * 10**9).name for gigabytes in (8, 24, 48, 80, 141, 192)] == [
        "RTX 4090, PCIe 4", "RTX 4090, PCIe 4", "A100 40GB", "H100 SXM", "H200 SXM", "B200",
    ]  # fmt: skip
