"""Layers that remember the text in a state of fixed size instead of keys and values.

Each is one box of the diagram: `delta_net.py` (gated delta nets, Kimi's delta attention), `mamba2.py`, `mamba.py`,
`rglru.py` and `short_conv.py`, with `causal_conv.py` in front; `mlstm.py` (xLSTM), and `rwkv4.py` with a shift by one
token in front. The recurrences themselves are plain functions, by token and by chunk of tokens: `delta_rule.py`,
`ssd.py`, `mlstm` in `mlstm.py` (with `chunks.py`), `selective_scan` in `mamba.py`, and `wkv` in `rwkv4.py`.
"""
