"""Names of the parts of DeepSeek-V4 in its files, whose attention and hyper-connections have parts of their own kind.

First those of published files, then those of transformers' modules.
"""

from __future__ import annotations

_COMPRESSOR = {"kv_proj": "wkv", "gate_proj": "wgate", "kv_norm": "norm"}
# Our prefix of a compressor, and those of files.
_COMPRESSORS = {
    "self_attn.compressed.compressor": ("attn.compressor", "self_attn.compressor"),
    "self_attn.compressed.indexer.compressor": ("attn.indexer.compressor", "self_attn.compressor.indexer"),
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    "self_attn.q_a_proj": ("attn.wq_a",),
    "self_attn.q_a_norm": ("attn.q_norm",),
    "self_attn.q_b_proj": ("attn.wq_b",),
    "self_attn.kv_proj": ("attn.wkv",),
    # The last is what transformers 5.24 writes.
    "self_attn.kv_norm": ("attn.kv_norm", "attn.norm"),
    "self_attn.o_a_proj": ("attn.wo_a",),
    "self_attn.o_b_proj": ("attn.wo_b",),
    "self_attn.compressed.indexer.q_proj": ("attn.indexer.wq_b", "self_attn.compressor.indexer.q_b_proj"),
    "self_attn.compressed.indexer.weight_proj": (
        "attn.indexer.weights_proj",
        "self_attn.compressor.indexer.scorer.weights_proj",
    ),
    **{
        f"{ours}.{part}": (f"{published}.{short}", f"{module}.{part}")
        for ours, (published, module) in _COMPRESSORS.items()
        for part, short in _COMPRESSOR.items()
    },
}
"""Our names of modules, and other names."""

WHOLE_NAMES: dict[str, tuple[str, ...]] = {
    "mlp.gate.tid2eid": ("ffn.gate.tid2eid",),
    **{
        f"{ours}.position_bias": (f"{published}.ape", f"{module}.position_bias")
        for ours, (published, module) in _COMPRESSORS.items()
    },
    **{
        f"{ours}.{part}": (f"hc_{theirs}_{part}",)
        for ours, theirs in (("attn_hc", "attn"), ("ffn_hc", "ffn"))
        for part in ("fn", "base", "scale")
    },
    **{f"hyper_streams.{part}": (f"hc_head_{part}", f"hc_head.hc_{part}") for part in ("fn", "base", "scale")},
}
"""The same for parameters that are not a module's weight or bias."""
