"""Tensor parallelism: a model whose matrices are split over several processes, the ranks (Shoeybi et al. 2019).

`split.py` says which heads, neurons, experts and tokens each rank has, as the configuration of a smaller model.
`modules.py` adds what connects the parts: sums over ranks behind matrices that are split by columns, and the
concatenation of logits. Megatron-LM: arXiv:1909.08053, section 3.
"""
