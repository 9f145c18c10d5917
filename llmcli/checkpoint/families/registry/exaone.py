"""Exaone."""

from __future__ import annotations

from llmcli.checkpoint.families import layer_rules
from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.styles import BASE, POST

FAMILIES: dict[str, Family] = {
    "exaone4": Family(
        {**BASE, "rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4},
        placement="post",
        qk_norm="head",
        layer_types=layer_rules.mostly_sliding,
        lists_layer_types=True,
        rope_on=layer_rules.sliding_rope_if_any,
        norm_names=POST,
    ),
}
