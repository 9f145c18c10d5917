"""Attention rows, compared with the attention matrices and value vectors of `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.engine import AttentionRow
from llmcli.errors import UsageError
from llmcli.inspection.attention.pattern import attention_pattern
from llmcli.inspection.attention.reply import ReplyAttention
from llmcli.inspection.attention.summary import read_at, summary
from llmcli.inspection.core.text_spans import Spans, TextSpan
from llmcli.kernels.readable_step import ReadableStep
from tests.support.models.parity_cases import CASES
from tests.support.models.tiny import random_ids, save, tiny_model
from tests.support.models.tiny_checkpoints import tiny_checkpoint

IDS = random_ids(24)
# One of each way to attend: grouped, windows, output norms with soft caps, whole-projection norms, parallel blocks,
# learned positions, latent attention, sinks, experts, a scaled residual stream.
FAMILIES = [
    "llama 2, grouped",
    "mistral, window shorter than the text",
    "qwen3",
    "gemma 2",
    "gemma 3",
    "olmo 2",
    "phi-2",
    "gpt-2",
    "pythia",
    "deepseek v3",
    "gpt-oss",
    "mixtral",
    "granite",
]


def case(name: str) -> tuple[str, dict[str, Any]]:
    return CASES.get(name) or next(value for key, value in CASES.items() if key.startswith(name))


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, llmcli.LoadedModel]:
    model_type, overrides = case(request.param)
    model = tiny_model(model_type, **overrides)
    folder = save(model, tmp_path_factory.mktemp("model"))
    return model, llmcli.load(folder, dtype="float32", device="cpu")


def reference_patterns(model: Any) -> torch.Tensor:
    """(L, H, T, T)"""
    with torch.inference_mode():
        attentions = model(torch.tensor([IDS]), output_attentions=True).attentions
    return torch.cat([layer[..., : len(IDS)] for layer in attentions])


def test_attention_patterns_equal_the_reference(
    pair: tuple[Any, llmcli.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loaded = pair
    expected = reference_patterns(model)
    for chunk in (512, 5):
        monkeypatch.setattr(ReadableStep, "prefill_chunk", chunk)
        for block in range(loaded.config.num_layers):
            for head in (0, loaded.config.num_heads - 1):
                ours = attention_pattern(loaded, IDS, block, head, range(len(IDS)))
                torch.testing.assert_close(torch.tensor(ours.pattern), expected[block, head], atol=1e-5, rtol=1e-4)


def test_attention_rows_average_the_reference(
    pair: tuple[Any, llmcli.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loaded = pair
    expected = reference_patterns(model).mean((0, 1))  # (T, T)
    positions = [0, 1, 7, 22, 23]
    for chunk in (512, 5):
        monkeypatch.setattr(ReadableStep, "prefill_chunk", chunk)
        for found in read_at(loaded, IDS, positions, top=100, each_block=True):
            row = found.row
            assert row.sink == pytest.approx(float(expected[row.position, 0]), abs=1e-5)
            assert row.self == pytest.approx(
                float(expected[row.position, row.position]) if row.position else 0, abs=1e-5
            )
            assert sum(read.weight for read in row.read) == pytest.approx(float(row.position > 1), abs=1e-5)
            assert all(0 < read.position < row.position for read in row.read)
            mean = sum(block.row.sink for block in found.blocks) / loaded.config.num_layers
            assert mean == pytest.approx(row.sink, abs=1e-5)


def test_read_is_weighted_by_value_norms(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    loaded = llmcli.load(save(model, tmp_path), dtype="float32")
    pattern = reference_patterns(model)[0]  # (H, T, T)
    layer = model.model.layers[0]
    with torch.inference_mode():
        values = layer.self_attn.v_proj(layer.input_layernorm(model.model.embed_tokens(torch.tensor(IDS))))
        by_head = values.view(len(IDS), 2, 8).repeat_interleave(2, dim=1)  # query heads 0, 1 share kv head 0
        out = layer.self_attn.o_proj.weight.view(32, 4, 8)
        moved = torch.einsum("thd,chd->htc", by_head, out).norm(dim=-1)  # (H, T)
        weights = (pattern * moved[:, None]).sum(0)[-1]
    weights = weights.clone()
    weights[0] = weights[-1] = 0
    weights /= weights.sum()
    (found,) = read_at(loaded, IDS, [len(IDS) - 1], top=100)
    ours = torch.zeros(len(IDS))
    for read in found.row.read:
        ours[read.position] = read.weight
    torch.testing.assert_close(ours, weights, atol=1e-6, rtol=1e-4)


def read_reply(loaded: llmcli.LoadedModel, prompt: list[int], reply: list[int]) -> ReplyAttention:
    spans = Spans("token", loaded.tokenizer)
    found = ReplyAttention(loaded, prompt, reply, spans=spans, top=3, logprobs=True)
    heard: list[tuple[int, int]] = []
    found.read(lambda done, total: heard.append((done, total)))
    last = len(prompt) + len(reply) - 1
    assert heard[0] == (0, last) and heard[-1] == (last, last)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    return found


def test_a_reply_has_the_attention_of_its_text(
    pair: tuple[Any, llmcli.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, loaded = pair
    prompt, reply = IDS[:12], IDS[12:]
    expected = loaded.logits(IDS).log_softmax(-1)
    for chunk in (512, 5):
        monkeypatch.setattr(ReadableStep, "prefill_chunk", chunk)
        found = read_reply(loaded, prompt, reply)
        for row, whole in zip(found.rows, read_at(loaded, IDS, range(11, 23), top=3), strict=True):
            alike(row, whole.row)
        said = [float(expected[at - 1, IDS[at]]) for at in range(12, 24)]
        assert found.logprobs == pytest.approx(said, abs=1e-4)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in loaded.model.modules())


def test_rows_read_before_an_interruption_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    monkeypatch.setattr(ReadableStep, "prefill_chunk", 5)
    found = ReplyAttention(loaded, IDS[:12], IDS[12:], spans=Spans("token", loaded.tokenizer))

    def interrupting(done: int, _total: int) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found.read(interrupting)
    # Positions 11 to 14; those of the chunk that was interrupted are not complete.
    assert [row.position for row in found.rows] == [11, 12, 13, 14]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in loaded.model.modules())


def test_spans_of_a_reply_end_at_the_query(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    ids = loaded.tokenizer.encode("one two three")
    found = ReplyAttention(loaded, ids[:3], ids[3:], spans=Spans("word", loaded.tokenizer), top=100)
    found.read(lambda done, total: None)
    for row in found.rows:
        so_far = loaded.tokenizer.decode(ids[: row.position + 1], skip_special=False)
        assert all(read.text in so_far for read in row.read)


def alike(ours: AttentionRow | None, other: AttentionRow) -> None:
    assert ours is not None
    assert ours.position == other.position
    assert (ours.sink, ours.self) == pytest.approx((other.sink, other.self), abs=1e-5)
    weights = {read.position: read.weight for read in other.read}
    assert {read.position: read.weight for read in ours.read} == pytest.approx(weights, abs=1e-5)


def test_a_single_head_and_some_blocks(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    last = len(IDS) - 1
    row = attention_pattern(loaded, IDS, 1, 3, [last]).pattern[0]
    found = summary(loaded, IDS, [last], only=[1])
    assert [block.block for block in found.blocks] == [1]
    alike(found.blocks[0].row, found.rows[0])
    (one,) = read_at(loaded, IDS, [last], only=[1], head=3)
    assert (one.row.sink, one.row.self) == pytest.approx((row[0], row[-1]), abs=1e-6)


@pytest.mark.parametrize("wrong", [{"positions": [24]}, {"positions": []}, {"only": [3]}, {"only": []}, {"head": 4}])
def test_missing_blocks_heads_and_positions_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    with pytest.raises(UsageError, match="There is no"):
        read_at(loaded, IDS, **{"positions": [1], **wrong})


def test_span_weights_are_sums_of_token_weights(tmp_path: Path) -> None:
    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"), dtype="float32")
    ids = loaded.tokenizer.encode("one two\nthree four five")
    last = len(ids) - 1
    (by_token,) = read_at(loaded, ids, [last], top=100)
    spans = Spans("word", loaded.tokenizer).of(ids)
    (by_word,) = read_at(loaded, ids, [last], top=100, spans=spans)
    for read in by_word.row.read:
        (span,) = [span for span in spans if span.start == read.position]
        inside = sum(token.weight for token in by_token.row.read if span.start <= token.position < span.stop)
        assert read.text == span.text
        assert read.weight == pytest.approx(inside, abs=1e-6)
    assert sum(read.weight for read in by_word.row.read) == pytest.approx(1, abs=1e-5)


def test_spans_cover_a_text_and_grow_with_it(tmp_path: Path) -> None:
    from llmcli.text.chat.prompt import Message, encode_chat

    loaded = llmcli.load(tiny_checkpoint(tmp_path, "llama"))
    tokenizer = loaded.tokenizer
    ids = tokenizer.encode("one  two\nthree")
    assert [span.text for span in Spans("word", tokenizer).of(ids)] == ["<|bos|>", "one", " ", " two", "\n", "three"]
    assert [span.text for span in Spans("line", tokenizer).of(ids)] == ["<|bos|>one  two\n", "three"]
    for unit in ("word", "line"):
        growing = Spans(unit, tokenizer)
        for length in range(1, len(ids) + 1):
            whole = Spans(unit, tokenizer).of(ids[:length])
            assert growing.of(ids[:length]) == whole
            assert [span.start for span in whole] == [0, *(span.stop for span in whole[:-1])]
    assert Spans("token", tokenizer).of(ids) == []
    assert loaded.template is not None
    said = [Message("system", "Be brief."), Message("user", "Be brief. Why?")]
    prompt = encode_chat(tokenizer, loaded.template, said)
    messages = Spans("message", tokenizer, said)
    # <bos> and the role before the first, the end of a message and the next role before the second.
    first, second = 2 + len("Be brief."), 2 + len("Be brief.") + 2 + len("Be brief. Why?")
    assert messages.of(prompt) == [
        TextSpan("system: Be brief.", 0, first),
        TextSpan("user: Be brief. Why?", first, second),
        TextSpan("the reply", second, len(prompt)),
    ]
    assert messages.of([*prompt, 5])[-1].stop == len(prompt) + 1
