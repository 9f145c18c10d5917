"""A Llama checkpoint built by hand that repeats what it has read: the smallest induction circuit.

The residual stream holds three one-hot vectors, of the token, of the one before it and of the one to come, and a 1.
Head 0 of block 0 attends to the position before, by rotation alone, and copies its token. Head 0 of block 1 attends to
where the token before was the same as this one, which rotation does not touch, and copies the token there. The other
heads attend to everything alike and write nothing.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from tests.support.models.tiny import VOCABULARY, save, tiny_model

_TOKEN, _BEFORE, _NEXT = (slice(start, start + VOCABULARY) for start in (0, VOCABULARY, 2 * VOCABULARY))
_ONE = 3 * VOCABULARY
_HIDDEN = _ONE + 1
_HEAD = 560
_THETA = 1e30
_FAST = 12  # rotated pairs that tell distances apart
_STILL = [*range(100, _HEAD // 2), *range(_HEAD // 2 + 100, _HEAD)][:VOCABULARY]  # dimensions that hardly rotate
_SURE = 50.0  # score or logit of the intended token; all others have 0


def write_induction_model(folder: Path) -> Path:
    """The checkpoint, whose tokens are bytes; texts must begin with BOS, or position 0 is taken for a repeat."""
    model = tiny_model(
        "llama",
        hidden_size=_HIDDEN,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        head_dim=_HEAD,
        max_position_embeddings=256,
        rms_norm_eps=1e-12,
        rope_parameters={"rope_type": "default", "rope_theta": _THETA},
    )
    state = model.state_dict()
    for name, values in state.items():
        values.fill_(1.0 if "norm" in name else 0.0)
    identity = torch.eye(VOCABULARY)
    # A norm divides k ones in C places by sqrt(k / C).
    seen = {ones: math.sqrt(_HIDDEN / ones) for ones in (2, 3, 4)}
    state["model.embed_tokens.weight"][:, _TOKEN] = identity
    state["model.embed_tokens.weight"][:, _ONE] = 1.0

    previous, matching = ("model.layers.0.self_attn", "model.layers.1.self_attn")
    # Scores are divided by sqrt(D); every head's own part of a projection is its first rows or columns.
    size = math.sqrt(_SURE * math.sqrt(_HEAD))
    for pair in range(_FAST):
        angle = _THETA ** (-2 * pair / _HEAD)
        query = state[f"{previous}.q_proj.weight"]
        # Rotated back by one position, so that query and key match at a distance of one.
        query[pair, _ONE] = size * math.cos(angle) / seen[2]
        query[_HEAD // 2 + pair, _ONE] = -size * math.sin(angle) / seen[2]
        state[f"{previous}.k_proj.weight"][pair, _ONE] = size / seen[2]
    state[f"{previous}.v_proj.weight"][:VOCABULARY, _TOKEN] = identity / seen[2]
    state[f"{previous}.o_proj.weight"][_BEFORE, :VOCABULARY] = identity

    state[f"{matching}.q_proj.weight"][_STILL, _TOKEN] = size * identity / seen[3]
    state[f"{matching}.k_proj.weight"][_STILL, _BEFORE] = size * identity / seen[3]
    state[f"{matching}.v_proj.weight"][:VOCABULARY, _TOKEN] = identity / seen[3]
    state[f"{matching}.o_proj.weight"][_NEXT, :VOCABULARY] = identity

    state["lm_head.weight"][:, _NEXT] = _SURE * identity / seen[4]
    model.load_state_dict(state)
    return save(model, folder)
