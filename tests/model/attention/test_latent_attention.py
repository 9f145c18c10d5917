from __future__ import annotations

import pytest
import torch

from llmcli.model import LatentConfig, LayerConfig, ModelConfig
from llmcli.model.attention.attention import Positions
from llmcli.model.attention.latent_attention import LatentAttention
from llmcli.model.attention.rope import rotate


@pytest.mark.parametrize("query_rank", [None, 6])
def test_latent_attention_equals_attention_with_every_key_written_out(query_rank: int | None) -> None:
    heads, nope, rope, value, rank = 3, 4, 2, 5, 7
    config = ModelConfig(
        vocab_size=10,
        hidden_size=12,
        intermediate_size=24,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=nope + rope,
        context_length=100,
        norm_eps=1e-5,
        layers=(LayerConfig(None),),
        latent=LatentConfig(query_rank, rank, nope, rope, value),
    )
    torch.manual_seed(0)
    assert config.latent is not None
    attention = LatentAttention(config, config.latent, config.layers[0], 0).requires_grad_(False)
    for parameter in attention.parameters():
        parameter.normal_(0, 0.5)
    x = torch.randn(2, 5, 12)
    angles = torch.arange(5)[:, None] * torch.tensor([0.7])
    rotation = angles.cos(), angles.sin()
    # Keys and values of every head written out (arXiv:2405.04434, eqs. 9-15).
    q = (
        attention.q_proj(x)
        if query_rank is None
        else attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(x)))
    )
    q = q.view(2, 5, heads, nope + rope).transpose(1, 2)
    row = attention.kv_a_proj_with_mqa(x)
    latent, k_rope = attention.kv_a_layernorm(row[..., :rank]), row[:, None, :, rank:]
    made = attention.kv_b_proj(latent).view(2, 5, heads, nope + value).transpose(1, 2)
    k = torch.cat((made[..., :nope], rotate(k_rope, *rotation).expand(2, heads, 5, rope)), dim=-1)
    q = torch.cat((q[..., :nope], rotate(q[..., nope:], *rotation)), dim=-1)
    scores = q @ k.transpose(2, 3) / (nope + rope) ** 0.5
    weights = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    expected = attention.o_proj((weights @ made[..., nope:]).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, Positions(torch.arange(5), rotation, None), None), expected)
