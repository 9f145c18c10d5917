from __future__ import annotations

import pytest

from llmcli.inspection.evaluation.cost import model_cost
from llmcli.model import ExpertsConfig, LatentConfig, LayerConfig, ModelConfig
from llmcli.views.inspect.cost import CostView, flops
from tests.support.models.published_sizes import LLAMA3_8B, MIXTRAL_8X7B, config
from tests.support.terminal.drawing import drawn, drawn_in_color, without_color

DENSE = """
Llama␛  8.03 B parameters

part          params   share  FLOP/token
embeddings     525 M    6.5%           0
attention     1.34 B   16.7%      2.68 G
feed-forward  5.64 B   70.2%      11.3 G
norms          266 k   <0.1%           0
output head    525 M    6.5%      1.05 G
model         8.03 B  100.0%        15 G
blocks 0-31 each: attention 41.9 M, feed-forward 176 M

KV cache: 131,072 B a token in 16-bit values, 8 heads for
32; 524,288 B if each of the 32 query heads had its own keys
and values, 4 times as much.

tokens KV cache read all 1 more scores
    17  2.1 MiB    238 G   15 G   0.1%
  1024  128 MiB   14.6 T 15.5 G   3.5%
  8192 1.00 GiB    132 T 19.3 G  22.2%
17 tokens: the text; 8192 tokens: the full context
""".strip("\n")
MIXED = """
Mixtral  46.7 B parameters, 12.9 B of
them for each token

part          params  active  FLOP/token
embeddings     131 M   131 M           0
attention     1.34 B  1.34 B      2.68 G
feed-forward  45.1 B  11.3 B      22.6 G
norms          266 k   266 k           0
output head    131 M   131 M       262 M
model         46.7 B  12.9 B      25.5 G
blocks 0-31 each: attention 41.9 M,
feed-forward 1.41 B (352 M active)

KV cache: 131,072 B a token in 16-bit
values, 8 heads for 32; 524,288 B if
each of the 32 query heads had its own
keys and values, 4 times as much.

tokens KV cache read all 1 more scores
  1024  128 MiB   26.1 T   26 G   2.1%
  8192 1.00 GiB    224 T 29.8 G  14.4%
 32768 4.00 GiB   1.11 P 42.7 G  40.3%
 40000 4.88 GiB   1.43 P 46.5 G  45.1%
32768 tokens: the full context; 40000
tokens: beyond the context
""".strip("\n")


def test_a_dense_model_and_its_full_context() -> None:
    assert drawn(CostView(model_cost("Llama\x1b", LLAMA3_8B, text_tokens=17)), 60) == DENSE


def test_experts_count_when_active() -> None:
    text = drawn(CostView(model_cost("Mixtral", MIXTRAL_8X7B, context=40_000)), 40)
    assert text == MIXED
    colored = drawn_in_color(CostView(model_cost("Mixtral", MIXTRAL_8X7B, context=40_000)), 40)
    assert without_color(colored) == MIXED


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (config(num_kv_heads=4), "each of the 4 heads has its own keys and values."),
        (config(latent=LatentConfig(None, 16, 8, 4, 6)), "one latent for all heads"),
        (config(layer=LayerConfig(None, window=9)), "blocks 0-1 each: attention 3.07 k, feed-forward 4.61 k, sees the"),
        (
            config(1, LayerConfig(None, chunk=9, experts=ExpertsConfig(4, 1, 8))),
            "feed-forward 3.2 k (896 active), sees the last 9 tokens",
        ),
    ],
)
def test_note_windows_tied_heads_and_length_origins_in_the_cost_view(sizes: ModelConfig, sentence: str) -> None:
    assert sentence in drawn(CostView(model_cost("x", sizes)), 200)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (268_959_744, "269 M"), (4_059_083_833_344, "4.06 T"), (10**19, "10 E")],
)
def test_flops_are_formatted_with_a_unit(number: int, words: str) -> None:
    assert flops(number) == words
