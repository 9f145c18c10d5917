"""The index that chooses keys: against its formula written out for single tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmcli.model import KeyIndexConfig, LatentConfig, LayerConfig, ModelConfig, RopeConfig, Transformer
from llmcli.model.attention import key_index
from llmcli.model.attention.key_index import KeyIndex

_LAYER = LayerConfig(RopeConfig(1e4, 2), index=KeyIndexConfig(3, 4, 5))
_CONFIG = ModelConfig(
    vocab_size=40, hidden_size=12, intermediate_size=20, num_heads=2, num_kv_heads=2, head_dim=6, context_length=64,
    norm_eps=1e-5, layers=(_LAYER, replace(_LAYER, index=None, index_from=0), _LAYER),
    latent=LatentConfig(query_rank=5, rank=7, nope_dim=4, rope_dim=2, value_dim=3),
)  # fmt: skip


@torch.no_grad()
def made() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(_CONFIG)
    for parameter in model.parameters():
        parameter.normal_(0, 0.5)
    return model.eval()


@pytest.mark.parametrize("scores_at_once", [1, 1 << 24])
@torch.no_grad()
def test_the_keys_with_the_best_scores_are_chosen(scores_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "_SCORES_AT_ONCE", scores_at_once)
    index = next(part for part in made().modules() if isinstance(part, KeyIndex))
    x, query, keys = torch.randn(1, 4, 12), torch.randn(1, 4, 5), torch.randn(1, 1, 9, 4)
    chosen = index.choose(x, query, keys, None, None)
    assert chosen is not None
    for token in range(4):
        heads = index.q_proj(query[0, token]).view(3, 4)
        weights = index.weight_proj(x[0, token])
        scores = [float(weights @ (heads @ key).relu()) for key in keys[0, 0, : 6 + token]]
        best = sorted(range(6 + token), key=lambda key: -scores[key])[:5]
        assert chosen[0, token].nonzero().flatten().tolist() == sorted(best)
    assert index.choose(x, query, keys[:, :, :5], None, None) is None


@torch.no_grad()
def test_texts_of_a_batch_have_choices_of_their_own() -> None:
    model, ids = made(), torch.arange(40).view(2, 20)
    together = model(ids)
    for text, logits in zip(ids, together, strict=True):
        torch.testing.assert_close(model(text[None])[0], logits)
