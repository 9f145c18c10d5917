"""Layers that remember the text in a state of fixed size instead of keys and values.

Each is one box of the diagram: `delta_net.py` (gated delta nets, Kimi's delta attention), `mamba2.py`, `mamba.py`,
`rglru.py` and `short_conv.py`. All have `causal_conv.py` in front. The recurrences themselves are plain functions, by
token and by chunk of tokens: `delta_rule.py`, `ssd.py` (both with `chunks.py`), and `selective_scan` in `mamba.py`.
"""
