"""Families with recurrent layers: alone, or in place of most attention layers."""

from __future__ import annotations

from llmcli.checkpoint.families.family import Family
from llmcli.checkpoint.families.registry.recurrent import delta, griffin, hybrid, kimi, liquid, mamba, rwkv, xlstm

FAMILIES: dict[str, Family] = {
    **mamba.FAMILIES,
    **hybrid.FAMILIES,
    **kimi.FAMILIES,
    **delta.FAMILIES,
    **liquid.FAMILIES,
    **griffin.FAMILIES,
    **rwkv.FAMILIES,
    **xlstm.FAMILIES,
}
