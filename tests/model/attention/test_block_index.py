"""The index that chooses blocks of keys: against its formula written out for single tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from llmcli.model import BlockIndexConfig, LayerConfig, ModelConfig, NormStyle, RopeConfig, Transformer
from llmcli.model.attention.block_index import BlockIndex
from llmcli.model.attention.rope import Rope, rotate

_INDEX = BlockIndexConfig(heads=3, size=5, block=2, chosen=2)
_ROPE = RopeConfig(1e4, 4)
_CONFIG = ModelConfig(
    vocab_size=40, hidden_size=12, intermediate_size=20, num_heads=4, num_kv_heads=2, head_dim=6, context_length=64,
    norm_eps=1e-5, layers=(LayerConfig(_ROPE, block_index=_INDEX),) * 2,
)  # fmt: skip


@torch.no_grad()
def made(config: ModelConfig = _CONFIG) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        parameter.normal_(0, 0.5)
    return model.eval()


@pytest.mark.parametrize("scores_at_once", [1, 1 << 24])
@torch.no_grad()
def test_the_blocks_with_the_best_scores_are_chosen(scores_at_once: int) -> None:
    torch.manual_seed(0)
    index = BlockIndex(_CONFIG, _INDEX, scores_at_once=scores_at_once)
    new, seen = 6, 13
    x, keys = torch.randn(1, new, 12), torch.randn(1, seen, 5)
    for norm in (index.q_norm, index.k_norm):
        nn.init.uniform_(norm.get_parameter("weight"), 0.5, 1.5)
    positions = Rope(_ROPE)(torch.arange(seen), torch.float32, seen)
    rotation, starts = (tuple(part[rows] for part in positions) for rows in (slice(seen - new, seen), slice(0, 12, 2)))
    chosen = index.choose(x, keys, rotation, starts)
    assert chosen is not None
    for token in range(new):
        at = seen - new + token
        turned = tuple(part[at : at + 1] for part in positions)
        heads = rotate(index.q_norm(index.q_proj(x[0, token]).view(1, 3, 1, 5)), *turned)[0, :, 0]
        whole = (at + 1) // 2
        scores = []
        for block in range(whole):
            first = tuple(part[2 * block : 2 * block + 1] for part in positions)
            mean = index.k_norm(keys[0, 2 * block : 2 * block + 2].mean(0)).view(1, 1, 1, 5)
            scores.append(float((heads @ rotate(mean, *first).flatten()).relu().sum()))
        best = sorted(range(whole), key=lambda block: -scores[block])[:2]
        keys_of_blocks = [2 * block + offset for block in best for offset in range(2)]
        assert chosen[0, token].nonzero().flatten().tolist() == sorted({*keys_of_blocks, *range(2 * whole, at + 1)})
    assert index.choose(x[:, :1], keys[:, :5], None, None) is None


@torch.no_grad()
def test_of_blocks_with_equal_scores_the_first_are_chosen() -> None:
    index = BlockIndex(_CONFIG, _INDEX)
    for projection in (index.q_proj, index.k_proj):
        projection.weight.zero_()
    for norm in (index.q_norm, index.k_norm):
        nn.init.ones_(norm.get_parameter("weight"))
    chosen = index.choose(torch.randn(1, 9, 12), torch.randn(1, 9, 5), None, None)
    assert chosen is not None
    assert [row.nonzero().flatten().tolist() for row in chosen[0, 3:]] == [
        [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3, 6], [0, 1, 2, 3], [0, 1, 2, 3, 8],
    ]  # fmt: skip


@torch.no_grad()
def test_keys_are_cached_beside_the_values_of_all_heads() -> None:
    index = BlockIndex(_CONFIG, _INDEX)
    x, values = torch.randn(2, 4, 12), torch.randn(2, 2, 4, 6)
    cached = index.beside(x, values)
    # Five numbers in two heads.
    assert cached.shape == (2, 2, 4, 9)
    assert _CONFIG.cached_widths(_CONFIG.layers[0]) == (2, 6, 9)
    back, keys = index.apart(cached)
    assert torch.equal(back, values)
    assert torch.equal(keys, index.k_proj(x))


@torch.no_grad()
def test_texts_of_a_batch_have_choices_of_their_own() -> None:
    model, ids = made(), torch.arange(40).view(2, 20)
    together = model(ids)
    for text, logits in zip(ids, together, strict=True):
        torch.testing.assert_close(model(text[None])[0], logits)


@torch.no_grad()
def test_a_text_no_longer_than_the_chosen_blocks_sees_everything() -> None:
    everything = made(replace(_CONFIG, layers=(LayerConfig(_ROPE),) * 2))
    indexed = made()
    indexed.load_state_dict(everything.state_dict(), strict=False)
    ids = torch.arange(20)[None]
    difference = (indexed(ids) - everything(ids)).abs().amax(-1)[0]
    assert float(difference[:5].max()) == 0
    assert float(difference[6:].min()) > 0


def test_other_limits_of_what_a_token_sees_are_refused() -> None:
    windowed = replace(_CONFIG, layers=(LayerConfig(_ROPE, window=4, block_index=_INDEX),), norm=NormStyle())
    with pytest.raises(ValueError, match="index of blocks"):
        Transformer(windowed)
