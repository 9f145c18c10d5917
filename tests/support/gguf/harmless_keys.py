"""Metadata of GGUF files that changes nothing where a family does not read it, with reasons.

Together with what the families read and what `refused_keys` refuses, these are all keys that the `gguf` package knows.
"""

from __future__ import annotations

from collections.abc import Mapping

RECORDED = "0.19"
"""The release of `gguf` that the lists were made from."""

_TENSORS_TELL = "the tensors tell"
_OF_READ = "a part of what another key asks for, which is read with it"
_EMBEDDINGS = "of models that embed texts, and do not write them"
_OTHER_INPUT = "of models that see, hear or translate"
_RECURRENT = "of recurrent layers; a model that has one is refused"

HARMLESS: Mapping[str, str] = {
    "vocab_size": _TENSORS_TELL,
    "tensor_data_layout": "a note about the converter's source",
    "expert_shared_count": _TENSORS_TELL,
    "expert_shared_feed_forward_length": _TENSORS_TELL,
    "interleave_moe_layer_step": _TENSORS_TELL,
    "leading_dense_block_count": _TENSORS_TELL,
    "moe_every_n_layers": _TENSORS_TELL,
    "attention.q_lora_rank": _TENSORS_TELL,
    "attention.key_length_mla": _TENSORS_TELL,
    "attention.value_length_mla": _TENSORS_TELL,
    "attention.layer_norm_epsilon": "of the other kind of norm, where it is not read",
    "attention.layer_norm_rms_epsilon": "of the other kind of norm, where it is not read",
    "attention.group_norm_epsilon": _OF_READ,
    "attention.sliding_window_pattern": _OF_READ,
    "expert_gating_func": "of a model without experts, where it is not read",
    "expert_weights_norm": "of a model without experts, where it is not read",
    "rope.dimension_sections": "for text, whose positions are the same in all sections",
    "rope.scaling.finetuned": "a note about training, and read where it is more",
    "rope.scaling.original_context_length": _OF_READ,
    "rope.scaling.yarn_beta_fast": _OF_READ,
    "rope.scaling.yarn_beta_slow": _OF_READ,
    "rope.scaling.yarn_log_multiplier": _OF_READ,
    "altup.active_idx": _OF_READ,
    "pooling_type": _EMBEDDINGS,
    "embedding_length_out": _EMBEDDINGS,
    "features_length": _OTHER_INPUT,
    "n_deepstack_layers": _OTHER_INPUT,
    "decoder_start_token_id": _OTHER_INPUT,
    "decoder_block_count": _OTHER_INPUT,
    "time_mix_extra_dim": _RECURRENT,
    "time_decay_extra_dim": _RECURRENT,
    "attention.decay_lora_rank": _RECURRENT,
    "attention.iclr_lora_rank": _RECURRENT,
    "attention.value_residual_mix_lora_rank": _RECURRENT,
    "attention.gate_lora_rank": _RECURRENT,
}
"""Keys of llama.cpp that change nothing in families that do not read them, with the reason."""
