"""Views as exact text at a fixed width: what they draw from plain values."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import replace

import pytest

from llmcli.engine import Finish, SampledCandidate, Stats, Step
from llmcli.inspection.evaluation.flops import ModelAccount
from llmcli.model import Alibi, AttentionGate, LayerConfig, ModelConfig, NormStyle, RopeConfig
from llmcli.views.reply.prompt_tokens import prompt_token_table
from llmcli.views.reply.reply_json import reply_json
from llmcli.views.reply.stats import stats_line
from llmcli.views.reports.show import ModelCard, model_tree
from llmcli.views.widgets.token_table import (
    BANDS,
    band_style,
    legend,
    percent,
    probability_bar,
    step_style,
    token_label,
    token_table,
)
from tests.support.terminal.drawing import drawn

STATS = Stats(37, 5, 7, 0.25, 512.0, 33.25, 700 * 2**20, "readable model, cpu, bfloat16")
PIECES = {1: b" Paris", 2: b"\xf0\x9f", 3: b"\x1b]0;x\x07", 4: b"a\n"}


def test_token_table_lists_candidates() -> None:
    top = (
        SampledCandidate(1, " Paris", math.log(0.75), 0.9, None),
        SampledCandidate(4, "a\n", math.log(0.1), 0.1, None),
        SampledCandidate(3, "", -20.0, 0.0, "top_p"),
    )
    steps = [
        Step(0, 1, " Paris", math.log(0.75), 0.5, 1, 0.9, top),
        Step(1, 2, "", math.log(0.04), 0.5, 3, 1.0, top[1:]),
    ]
    assert drawn(token_table(steps, 3, PIECES.__getitem__), 100) == (
        "#  token     model  sampled   entropy  could have been\n"
        "0  ␣Paris    75.0%    90.0%  0.7 bits  ␣Paris 75.0%  a⏎ 10.0%  ␛]0;x␇ <0.1% (not in top-p)\n"
        "1  \\xf0\\x9f   4.0%   100.0%  0.7 bits  a⏎ 10.0%  ␛]0;x␇ <0.1% (not in top-p)"
    )
    assert drawn(token_table(steps[:1], 0, PIECES.__getitem__)) == (
        "#  token   model            sampled   entropy\n0  ␣Paris  75.0%  ██████      90.0%  0.7 bits"
    )


def test_draft_tokens_are_marked() -> None:
    steps = [
        Step(0, 1, " Paris", math.log(0.95), 0.5, 1, 0.9),
        Step(1, 4, "a", math.log(0.6), 0.5, 1, 0.9, origin="lookup"),
        Step(2, 1, "b", math.log(0.95), 0.5, 1, 0.9, origin="draft"),
    ]
    assert drawn(token_table(steps, 0, PIECES.__getitem__)) == (
        "#  token   model            sampled   entropy  from\n"
        "0  ␣Paris  95.0%  ███████▋    90.0%  0.7 bits  model\n"
        "1  a⏎      60.0%  ████▊       90.0%  0.7 bits  lookup\n"
        "2  ␣Paris  95.0%  ███████▋    90.0%  0.7 bits  draft"
    )
    assert ["underline" in step_style(step) for step in steps] == [False, True, True]
    assert band_style(0.6) in step_style(steps[1])
    assert step_style(Step(0, 1, "")) == "dim"
    assert "proposed" in drawn(legend(proposed=True), 200)


def test_prompt_token_table_marks_control_tokens() -> None:
    rows = [(1, b"<s>", True), (70, b" <s>", False), (71, b"\x1b[2J", False)]
    assert drawn(prompt_token_table(rows)) == (
        "#  id  token\n0   1  <s>  control\n1  70  ␣<s>\n2  71  ␛[2J"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("probability", "bar", "words"),
    [(1, "████████", "100.0%"), (0.5, "████    ", "50.0%"), (0, "        ", "0.0%"), (1e-9, "        ", "<0.1%")],
)
def test_probabilities_as_bars_and_words(probability: float, bar: str, words: str) -> None:
    assert (probability_bar(probability), percent(probability)) == (bar, words)


def test_bands_cover_every_probability_and_differ() -> None:
    styles = [band_style(p) for p in (1.0, 0.6, 0.3, 0.1, 0.01)]
    assert styles == [style for _, _, style in BANDS]
    assert len(set(styles)) == len(styles)
    assert band_style(0.0) == styles[-1]
    assert all(label in drawn(legend()) for _, label, _ in BANDS)


def test_token_labels_have_no_control_characters() -> None:
    for byte in range(256):
        for label in (token_label(bytes([byte])), token_label(chr(byte).encode())):
            assert not any(unicodedata.category(char) == "Cc" for char in label)
    assert token_label("\u00a0é\u200b\u3000 ".encode()) == "\\xa0é\\u200b\\u3000␣"


def test_statistics_in_a_line() -> None:
    assert drawn(stats_line(STATS), 200) == (
        "prompt 37 tokens (5 from cache) · first token 0.25 s · read 512 tok/s · wrote 7 tokens at 33.2 tok/s"
        " · peak memory 700 MiB · readable model, cpu, bfloat16"
    )
    helped = replace(
        STATS, proposed_tokens=20, accepted_tokens=15, acceptance_rate=0.75, tokens_per_pass=2.5, speculative_gain=1.875
    )
    assert "at 33.2 tok/s · 15 of 20 proposed accepted (75%) · 2.50 tokens a pass · 1.88 x plain speed · peak" in (
        drawn(stats_line(helped), 300)
    )
    nothing = Stats(37, 0, 0, None, None, None, 0, "x")
    assert drawn(stats_line(nothing)) == "prompt 37 tokens · wrote 0 tokens · peak memory 0 B · x"


def test_json_tokens_join_to_the_text() -> None:
    steps = [Step(0, 1, "a"), Step(1, 2, "")]
    reply = reply_json(
        model="m",
        prompt="p",
        prefill=">",
        seed=1,
        steps=steps,
        finish=Finish("stop", STATS, "é"),
        token_bytes=PIECES.__getitem__,
    )
    assert reply["text"] == ">aé"
    assert [token["text"] for token in reply["tokens"]] == ["a", "é"]  # type: ignore[attr-defined]
    empty = reply_json(
        model="m",
        prompt="p",
        prefill="",
        seed=1,
        steps=[],
        finish=Finish("stop", STATS),
        token_bytes=PIECES.__getitem__,
    )
    assert (empty["text"], empty["tokens"]) == ("", [])


def test_a_model_as_a_tree() -> None:
    rope = RopeConfig(1e4, 64)
    config = ModelConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        context_length=4096,
        norm_eps=1e-5,
        layers=(LayerConfig(rope), LayerConfig(rope), LayerConfig(rope, window=512)),
        tie_embeddings=True,
    )
    card = ModelCard(
        name="small\x1b",
        path="/models/small",
        format="safetensors",
        family="llama",
        config=config,
        account=ModelAccount(
            6400, 3_000_000, 0, 2_000_000, 448, 0, {"BF16": 10 * 2**20}, 1536, 1536 * 4096, 816 * 4096
        ),
        vocabulary=90,
        template=None,
        stop_tokens=[(2, "</s>", ("config.json",))],
        generation_defaults={"temperature": 0.6},
        notes=["A note."],
    )
    text = drawn(model_tree(card), 120)
    for line in (
        "small␛  llama, safetensors, 5.01 M parameters",
        "embedding  100 tokens (10 of them padding) x 64",
        "blocks 0-1  2 x",
        "block 2  1 x",
        "grouped-query, 4 query heads on 2 key-value heads of 64, sees the last 512 tokens",
        "all attention  3 M parameters, 60 %",
        "KV cache  1.5 KiB a token, 6 MiB when full",
        "</s>  2, from config.json",
        "recommended sampling  temperature 0.6",
        "note  A note.",
    ):
        assert line in text
    gate = AttentionGate()
    biased = replace(card, config=replace(config, alibi=Alibi(), embed_norm=NormStyle(), attention_gate=gate))
    text = drawn(model_tree(biased), 120)
    assert "scores fall with the distance (ALiBi)" in text and "x 64, normalized" in text
    assert "a sigmoid gate for each value" in " ".join(text.replace("│", "").split())
