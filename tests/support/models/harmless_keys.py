"""Keys of `config.json` that the configuration classes of `transformers` have and that change no logits, with reasons.

Together with what the families read and what `refused_keys` and `refused_models` refuse, these are all keys of those
classes; a test compares them with the classes of `transformers` itself. A key that is in none of the lists and in no
class is one that the reference does not know: it stays unused there, and here.
"""

from __future__ import annotations

from collections.abc import Mapping

RECORDED = "5.24"
"""The release of `transformers` whose classes the lists were made from."""

_TRAINING = "training only"
_DROPOUT = "training only: nothing is dropped when a model is run"
_OUTPUTS = "what a call of the Python model returns beside the logits"
_CLASSIFIER = "of models that classify, not of those that write"
_RECURRENT = "of recurrent layers; a model that has one is refused"
_TOKEN = "an id for the tokenizer and for the end of a reply; the embedding of the id is computed like any other"

HARMLESS: Mapping[str, str] = {
    "_is_quantized": "whether transformers has quantized the model in memory",
    "architectures": "names the Python class; the model type decides",
    "transformers_version": "the release that wrote the file",
    "dtype": "a hint; the tensors say in which type they are",
    "torch_dtype": "the older name of dtype",
    "use_cache": "whether keys and values are kept, which changes no result",
    "chunk_size_feed_forward": "memory only, and unused by these families",
    "pretraining_tp": "how matrices were split over machines in training",
    "output_attentions": _OUTPUTS,
    "output_hidden_states": _OUTPUTS,
    "output_router_logits": _OUTPUTS,
    "return_dict": _OUTPUTS,
    "problem_type": _CLASSIFIER,
    "id2label": _CLASSIFIER,
    "label2id": _CLASSIFIER,
    "num_labels": _CLASSIFIER,
    "classifier_dropout": _CLASSIFIER,
    "initializer_range": _TRAINING,
    "router_aux_loss_coef": _TRAINING,
    "attention_dropout": _DROPOUT,
    "attn_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "resid_pdrop": _DROPOUT,
    "hidden_dropout": _DROPOUT,
    "embedding_dropout": _DROPOUT,
    **dict.fromkeys(("activation_dropout", "dropout", "emb_pdrop", "embed_dropout", "layerdrop"), _DROPOUT),
    **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob", "resid_dropout"), _DROPOUT),
    "init_std": _TRAINING,
    "moe_jitter_eps": _TRAINING,
    "decoder_start_token_id": _TOKEN,
    "residual_dropout": _DROPOUT,
    "bos_token_id": _TOKEN,
    **dict.fromkeys(("eod_token_id", "sep_token_id", "audio_token_offset", "image_token_offset"), _TOKEN),
    "input_jitter_noise": _TRAINING,
    "eos_token_id": _TOKEN,
    "pad_token_id": _TOKEN,
    "_attn_implementation": "which of several equal computations of attention runs",
}
"""In every family."""

HARMLESS_OF: Mapping[str, Mapping[str, str]] = {
    "aria_text": {"vision_feature_layer": "of the wrapper, whose source the text model shares"},
    "biogpt": {"layer_norm_eps": "transformers never passes it on: all norms have 1e-5"},
    "bloom": {"slow_but_exact": "the order in which parts of matrices are added, which is rounding"},
    "codegen": {"n_ctx": "the older name of n_positions, which is read"},
    "cohere_compass_text": {
        "pooling": "of models that embed texts, not of those that write",
        "video_token_id": "of the wrapper, whose source the text model shares",
    },
    "cohere2_moe": {"rope_theta": "read from rope_parameters, which the class always writes"},
    "deepseek_v2": {"norm_topk_prob": "transformers never divides the weights of this family's experts by their sum"},
    "ernie4_5_moe": {"moe_norm_min": "the least sum of the chosen weights of a softmax, which is never that small"},
    "gemma3n_text": {"altup_coef_clip": _TRAINING},
    "gemma3_text": {"attn_logit_softcapping": "transformers stores it, and never applies it to this family's scores"},
    "gpt2": {
        "reorder_and_upcast_attn": "the order of two multiplications, and their type, which is rounding",
        **dict.fromkeys(
            (
                "summary_type",
                "summary_use_proj",
                "summary_activation",
                "summary_proj_to_labels",
                "summary_first_dropout",
                "summary_last_dropout",
            ),
            _CLASSIFIER,
        ),
    },
    "gpt_bigcode": {
        "attention_softmax_in_fp32": "the type of the softmax, which is rounding",
        "scale_attention_softmax_in_fp32": "the type in which scores are scaled, which is rounding",
    },
    "gpt_neox_japanese": {"is_decoder": "transformers warns of a wrong value, and computes the same"},
    "gpt_neox": {"is_decoder": "transformers warns of a wrong value, and computes the same"},
    "granitemoehybrid": {
        **dict.fromkeys(
            (
                "mamba_n_heads",
                "mamba_n_groups",
                "mamba_d_state",
                "mamba_d_head",
                "mamba_d_conv",
                "mamba_expand",
                "mamba_chunk_size",
                "mamba_conv_bias",
                "mamba_proj_bias",
                "time_step_limit",
            ),
            _RECURRENT,
        )
    },
    "hy_v3": {"enable_moe_fp32_combine": "the type in which two outputs are added, which is rounding"},
    "mellum": {
        "mtp_layer_types": "of layers for multi-token prediction",
        "mtp_mlp_layer_types": "of layers for multi-token prediction",
    },
    "llama4_text": {"router_jitter_noise": _TRAINING},
    "minimax_m2": {"router_jitter_noise": _TRAINING},
    "mixtral": {"router_jitter_noise": _TRAINING},
    "minicpm3": {"logits_scaling": "computed from dim_model_base, which is read"},
    "mpt": {
        "embedding_fraction": "of training only",
        "init_device": "of training only",
        "learned_pos_emb": "transformers never makes such positions; MPT's own code does so only without ALiBi",
        "norm_type": "transformers has one kind of norm, that of all published files",
    },
    "phimoe": {
        "lm_head_bias": "the tensors show whether there is one",
        "original_max_position_embeddings": "the number within rope_parameters counts",
    },
    "youtu": {"embedding_initializer_range": _TRAINING},
}
"""In single families, by `model_type`."""


def why_harmless(model_type: str, key: str) -> str | None:
    """The reason why an unread key changes no logits of that family; None if it is not listed."""
    return HARMLESS_OF.get(model_type, {}).get(key) or HARMLESS.get(key)
