"""Which rows of latent attention are stored as rotated pairs that are adjacent."""

from __future__ import annotations

from llmcli.checkpoint.tensors.parameter_sources import PairedRows
from llmcli.model.config import LatentConfig, LayerConfig

_OF_INDEX = ("self_attn.indexer.q_proj", "self_attn.indexer.k_proj", "self_attn.indexer.k_norm")


def latent_pairs(
    latent: LatentConfig | None, layer: LayerConfig | None, module: str, *, paired: bool, paired_index: bool
) -> PairedRows | None:
    """The stored order of a module's rows, if the model has latent attention and the module such pairs; else None.

    `paired` is about attention, `paired_index` about the index that chooses its keys.
    """
    if latent is None:
        return None
    if paired_index and module in _OF_INDEX and layer is not None and layer.index is not None:
        return PairedRows(layer.index.size, 0, latent.rope_dim)
    if paired and module in ("self_attn.q_proj", "self_attn.q_b_proj"):
        return PairedRows(latent.query_dim, latent.nope_dim, latent.rope_dim)
    if paired and module == "self_attn.kv_a_proj_with_mqa":
        return PairedRows(latent.rank + latent.rope_dim, latent.rank, latent.rope_dim)
    return None
