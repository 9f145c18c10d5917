"""The configurations that the Triton kernels support, and whether they can run on this machine."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError

import torch

from llmcli.kernels.coverage import ROTATIONS, SMALL_PARTS, SupportedFields, any_value, why_unsupported
from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig
from llmcli.model.quantized.layout import ROWS, PackedFormat

# The first compute capability with bfloat16 and asynchronous copies, which all kernels need.
_OLDEST = 8, 0

# In the order of their numbers in `triton/linear.py` and `triton/moe.py`.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu")
SCORES = ("softmax", "sigmoid", "softmax_of_chosen", "sigmoid_of_chosen")
# The numbers of `triton/attention.py`.
QK_NORMS = {None: 0, "head": 1, "each_head": 1, "weightless": 1, "whole": 2, "rotated": 3}

SUPPORTED: SupportedFields = {
    ModelConfig: {
        **any_value("vocab_size hidden_size intermediate_size num_heads num_kv_heads head_dim context_length norm_eps"),
        **any_value("layers gated norm final_norm post_norm_eps qkv_clip attention_scale attention_softcap"),
        **any_value("qkv_bias o_bias mlp_bias head_bias learned_positions"),
        **any_value("embed_scale embed_scale_rounded residual_scale logit_scale logit_softcap tie_embeddings"),
        "activation": ACTIVATIONS,
        "placement": ("pre", "post", "sandwich", "parallel", "parallel_shared"),
        "qk_norm": QK_NORMS,
    },
    LayerConfig: any_value("rope window chunk experts query_scaling sinks"),
    # `unsupported` checks the groups: the kernels only choose from all groups.
    ExpertsConfig: {
        **any_value("count chosen intermediate_size normalized scale scales_input groups groups_chosen group_score"),
        **any_value("float32_router router_bias selection_bias bias glu shared_size shared_gate"),
        "score": SCORES,
    },
    **SMALL_PARTS,
    **ROTATIONS,
}
"""The fields that the kernels support; models with other fields use the readable model."""


def unsupported(config: ModelConfig) -> str | None:
    """The reason why the kernels do not support a model, without a full stop; None: they do."""
    if config.latent is not None:
        return "latent attention"
    for layer in config.layers:
        if layer.experts is not None and layer.experts.groups_chosen != layer.experts.groups:
            return "experts chosen in groups"
    return why_unsupported(config, SUPPORTED)


def reads_packed(config: ModelConfig, planned: Mapping[str, PackedFormat]) -> bool:
    """Whether the kernels can compute a supported model with the packed formats `planned`, by parameter name."""
    sizes = [layer.experts.intermediate_size for layer in config.layers if layer.experts is not None]
    if any(name.endswith(".gate_up_proj") for name in planned) and any(size % ROWS for size in sizes):
        return False
    # One kernel reads gate and up together, so their formats must be equal.
    pairs = ((name.replace(".up_proj.", ".gate_proj."), name.replace(".gate_proj.", ".up_proj.")) for name in planned)
    return not config.gated or all(planned.get(gate) == planned.get(up) for gate, up in pairs)


def why_not_here(device: torch.device) -> str | None:
    """The reason why the kernels cannot run on a CUDA device, without a full stop; None: they can."""
    if torch.version.cuda is None:
        return "this PyTorch is not for CUDA"
    if (capability := torch.cuda.get_device_capability(device)) < _OLDEST:
        return f"compute capability {capability[0]}.{capability[1]}, less than {_OLDEST[0]}.{_OLDEST[1]}"
    return None if find_spec("triton") else "Triton is not installed"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    if isinstance(error, CalledProcessError):
        # Its message is a command of many lines; the failed program has printed the cause.
        program = Path(error.cmd[0] if isinstance(error.cmd, list) else str(error.cmd).split()[0]).name
        headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()
        return f"{program} failed with exit code {error.returncode}" + ("" if headers else ", as Python.h is missing")
    return (str(error).splitlines() or [type(error).__name__])[0]
