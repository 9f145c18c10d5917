"""Models that are split over ranks compute what the whole model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.rank_part import rank_part
from llmcli.errors import UnsupportedModelError
from llmcli.model import Heads
from llmcli.model.parallel.split import Rank, even_range, parts_of, query_heads, rank_config, rank_counts
from llmcli.model.parameters import parameters_of
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.newer_cases import NEWER
from tests.support.models.parity_cases import CASES
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny import random_ids, tiny_model
from tests.support.models.tiny_checkpoints import shared_checkpoint
from tests.support.ranks import logits_of_all, split_models

LARGER = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
ALL = {**CASES, **NEWER, **RECURRENT}
IDS = random_ids(40)
PIECES = torch.split(torch.tensor([IDS]), [9, 1, 30], dim=1)
# Of this family transformers writes the convolutions in equal thirds, which no published file has.
WRITTEN_WRONGLY = {"olmo hybrid, no rope"}


def whole_logits(checkpoint: Checkpoint) -> torch.Tensor:
    model = load_weights(checkpoint, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([IDS]))[0]
    return logits


@pytest.mark.parametrize("case", sorted(set(ALL) - WRITTEN_WRONGLY))
def test_every_family_gives_the_logits_of_one_process(case: str) -> None:
    model_type, overrides = ALL[case]
    checkpoint = open_checkpoint(shared_checkpoint(model_type, **overrides))
    expected = whole_logits(checkpoint)
    for count in (2, 4):
        for logits in logits_of_all(split_models(checkpoint, count), PIECES):
            assert float((logits - expected).abs().max() / expected.abs().max()) < 2e-5


@pytest.mark.parametrize("case", sorted(set(ALL) - WRITTEN_WRONGLY))
def test_ranks_have_all_of_a_model_between_them(case: str) -> None:
    model_type, overrides = ALL[case]
    config = open_checkpoint(shared_checkpoint(model_type, **overrides)).config
    for count in (2, 3, 4):
        if count not in rank_counts(config, 4):
            continue
        parts = [parts_of(config, Rank(index, count)) for index in range(count)]
        whole = parameters_of(config)
        for name in parts[0]:
            dimension = parts[0][name].dimension
            held = {place for part in parts for place in range(part[name].start, part[name].stop)}
            assert held == set(range(whole[name].shape[dimension]))
        for index, part in enumerate(parts):
            own = parameters_of(rank_config(config, Rank(index, count)))
            assert all(own[name].shape[one.dimension] == one.stop - one.start for name, one in part.items())


def test_query_heads_stay_with_their_key_value_head() -> None:
    assert [query_heads(Heads(9, 3, 8, 8), Rank(index, 2)) for index in range(2)] == [(0, 6), (6, 9)]
    assert [query_heads(Heads(8, 2, 8, 8), Rank(index, 4)) for index in range(4)] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    # Three ranks for two key-value heads: two of them share the first.
    assert [query_heads(Heads(6, 2, 8, 8), Rank(index, 3)) for index in range(3)] == [(0, 2), (2, 3), (3, 6)]


def test_even_ranges_cover_everything_and_differ_by_one() -> None:
    assert [even_range(10, Rank(index, 4)) for index in range(4)] == [(0, 3), (3, 6), (6, 8), (8, 10)]


def test_more_ranks_than_heads_are_refused() -> None:
    model_type, overrides = CASES["llama 2, grouped"]
    checkpoint = open_checkpoint(shared_checkpoint(model_type, **overrides))
    with pytest.raises(UnsupportedModelError, match="4 attention heads, which cannot be split over 5 ranks"):
        rank_part(checkpoint, Rank(0, 5))


def test_a_rank_reads_about_its_part(tmp_path: Path) -> None:
    model_type, overrides = CASES["llama 1"]
    checkpoint = open_checkpoint(shared_checkpoint(model_type, **overrides))
    values = sum(parameter.values for parameter in parameters_of(checkpoint.config).values())
    for index in range(2):
        own = parameters_of(rank_config(checkpoint.config, Rank(index, 2)))
        assert sum(parameter.values for parameter in own.values()) < 0.6 * values


# The rows of these blocks have 32 and 256 columns, and ranks cut at 128.
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K])
def test_quantized_weights_are_cut_between_groups(kind: Kind, tmp_path: Path) -> None:
    model = tiny_model("llama", **LARGER)
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(kind)))
    cpu = torch.device("cpu")
    whole = load_weights(checkpoint, cpu, torch.float32, packing="stored")
    with torch.inference_mode():
        expected = whole(torch.tensor([IDS]))[0]
    for logits in logits_of_all(split_models(checkpoint, 2, "stored"), PIECES):
        assert float((logits - expected).abs().max() / expected.abs().max()) < 2e-5


def test_experts_of_gguf_files_are_split(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(
        write_gguf(made("qwen3-moe"), tmp_path / "model.gguf", kind_of=quantized(Kind.Q8_0, "exps"))
    )
    whole = load_weights(checkpoint, torch.device("cpu"), torch.float32, packing="stored")
    with torch.inference_mode():
        expected = whole(torch.tensor([IDS]))[0]
    for logits in logits_of_all(split_models(checkpoint, 2, "stored"), PIECES):
        assert float((logits - expected).abs().max() / expected.abs().max()) < 2e-5


def test_a_number_of_ranks_that_cuts_groups_is_refused_with_those_that_do_not(tmp_path: Path) -> None:
    model = tiny_model("llama", **{**LARGER, "head_dim": 16, "num_attention_heads": 8, "num_key_value_heads": 8})
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(Kind.Q8_0)))
    with pytest.raises(UnsupportedModelError, match=r"8 ranks would cut between them\. .* that do not: 2, 4"):
        rank_part(checkpoint, Rank(0, 8))
