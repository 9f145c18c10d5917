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
_CHUNK = "the number of tokens that are computed at once, which is rounding"
_EQUAL = "which of several equal computations runs"
# Of Mamba and its descendants.
_MAMBA: Mapping[str, str] = {
    **dict.fromkeys(("rescale_prenorm_residual", "time_step_floor", "time_step_init_scheme"), _TRAINING),
    **dict.fromkeys(("time_step_max", "time_step_scale"), _TRAINING),
    "time_step_min": f"{_TRAINING}; of Nemotron-H, transformers limits the steps of prompts by it, but not of replies",
    "residual_in_fp32": "the type of the residual stream, which is rounding",
    **dict.fromkeys(("use_associative_scan", "use_mambapy"), _EQUAL),
}
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
    "deepseek_v4": {
        "norm_topk_prob": "transformers always divides the weights of this family's experts by their sum",
        "router_jitter_noise": _TRAINING,
    },
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
    "openai-gpt": dict.fromkeys(
        ("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
        _CLASSIFIER,
    ),
    "gpt_bigcode": {
        "attention_softmax_in_fp32": "the type of the softmax, which is rounding",
        "scale_attention_softmax_in_fp32": "the type in which scores are scaled, which is rounding",
    },
    "gpt_neox_japanese": {"is_decoder": "transformers warns of a wrong value, and computes the same"},
    "gpt_neox": {"is_decoder": "transformers warns of a wrong value, and computes the same"},
    "granitemoehybrid": {"mamba_chunk_size": _CHUNK},
    "bamba": {"mamba_chunk_size": _CHUNK, "num_logits_to_keep": _OUTPUTS, "z_loss_coefficient": _TRAINING},
    "falcon_h1": {"mamba_chunk_size": _CHUNK, "num_logits_to_keep": _OUTPUTS},
    "falcon_mamba": _MAMBA,
    "mamba": _MAMBA,
    "mamba2": {
        **_MAMBA,
        "chunk_size": _CHUNK,
        "expand": "the product of the number of heads and their size, which are read",
        "time_step_rank": "of Mamba 1, whose configuration this one was made from",
    },
    "nemotron_h": {
        **_MAMBA,
        "chunk_size": _CHUNK,
        "expand": "the number of heads and their size are read",
        "mamba_proj_bias": "transformers reads use_bias in its place",
        "mamba_ssm_cache_dtype": "the type of the state, which is rounding",
        "moe_shared_expert_overlap": "what runs at the same time",
        "mtp_layers_block_type": "of layers for multi-token prediction",
        "n_shared_experts": "transformers always makes one",
        "num_logits_to_keep": _OUTPUTS,
        "use_mamba_kernels": _EQUAL,
    },
    "jamba": {
        "layers_num_experts": "computed from the period and offset of layers with experts, which are read",
        "use_mamba_kernels": _EQUAL,
        **dict.fromkeys(("use_associative_scan", "use_mambapy"), _EQUAL),
    },
    "recurrent_gemma": {
        **dict.fromkeys(("final_w_init_variance_scale", "w_init_variance_scale"), _TRAINING),
        "head_dim": "computed from the hidden size and the number of heads, which are read",
        "sliding_window": "another name of attention_window_size, which is read",
    },
    "bailing_hybrid": {
        "linear_conv_kernel_dim": "computed from short_conv_kernel_size, which is read",
        "linear_num_heads": "computed from num_attention_heads, which is read",
        "mtp_loss_scaling_factor": _TRAINING,
        "rope_theta": "read from rope_parameters, which the class always writes",
    },
    "qwen4_exp_text": {
        "number_of_conv_states": "what transformers caches",
        "split_ngram_parts": "how many tensors files divide a table into, which their names show",
    },
    "lfm3": {"_rope_type_labels": "the types of layers with rotations, of a class and not of a file"},
    "olmo_hybrid": {
        **dict.fromkeys(("linear_a_log_max", "linear_a_log_min", "linear_dt_init_floor"), _TRAINING),
        **dict.fromkeys(("linear_dt_max", "linear_dt_min"), _TRAINING),
    },
    "hy_v3": {"enable_moe_fp32_combine": "the type in which two outputs are added, which is rounding"},
    "mellum": {
        "mtp_layer_types": "of layers for multi-token prediction",
        "mtp_mlp_layer_types": "of layers for multi-token prediction",
    },
    "llama4_text": {"router_jitter_noise": _TRAINING},
    "minimax_m2": {"router_jitter_noise": _TRAINING},
    "mixtral": {"router_jitter_noise": _TRAINING},
    "mllama_text_model": dict.fromkeys(
        ("image_size", "max_aspect_ratio_id", "max_num_tiles"),
        "of the part for images, whose source the text model shares",
    ),
    "minicpm3": {"logits_scaling": "computed from dim_model_base, which is read"},
    "modernbert-decoder": {
        **dict.fromkeys(("mlp_dropout",), _DROPOUT),
        **dict.fromkeys(("initializer_cutoff_factor",), _TRAINING),
        "cls_token_id": _TOKEN,
        "decoder_bias": "the tensors show whether there is one",
    },
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
    "rwkv": {
        "rescale_every": "halves the residual stream so that float16 can hold it; norms undo that",
    },
    "xlstm": {
        **dict.fromkeys(("mode", "chunkwise_kernel", "sequence_kernel", "step_kernel", "weight_mode"), _EQUAL),
        **dict.fromkeys(("chunk_size", "max_inference_chunksize"), _CHUNK),
        **dict.fromkeys(("autocast_kernel_dtype", "inference_state_dtype"), "a type, which is rounding"),
        "norm_reduction_force_float32": "the type in which norms are computed, which is rounding",
        **dict.fromkeys(("qk_head_dim", "v_head_dim"), "computed from the factors of sizes, which are read"),
        "add_out_norm": "transformers always makes the last norm",
        "return_last_states": _OUTPUTS,
    },
    "youtu": {"embedding_initializer_range": _TRAINING},
}
"""In single families, by `model_type`."""

READ_OF: Mapping[str, frozenset[str]] = {"qwen4_exp_text": frozenset({"eos_token_id"})}
"""Keys that change no logits elsewhere, and do so in single families: n-grams end with a text."""


def why_harmless(model_type: str, key: str) -> str | None:
    """The reason why an unread key changes no logits of that family; None if it is not listed."""
    if key in READ_OF.get(model_type, ()):
        return None
    return HARMLESS_OF.get(model_type, {}).get(key) or HARMLESS.get(key)
