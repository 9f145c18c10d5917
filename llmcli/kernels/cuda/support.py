"""What the Triton kernels cover, and whether they can run here."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError

import torch

from llmcli.kernels.coverage import ROTATIONS, SMALL_PARTS, Known, any_value, why_unknown
from llmcli.model import ExpertsConfig, LayerConfig, ModelConfig
from llmcli.model.quantized.layout import ROWS, PackedFormat

# The first with bfloat16 and asynchronous copies, which all kernels count on.
_OLDEST = 8, 0

# In the order of the numbers that `triton/linear.py` and `triton/moe.py` know them by.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu")
SCORES = ("softmax", "sigmoid", "softmax_of_chosen", "sigmoid_of_chosen")
# As `triton/attention.py` knows them.
QK_NORMS = {None: 0, "head": 1, "each_head": 1, "whole": 2, "rotated": 3}

KNOWN: Known = {
    ModelConfig: {
        **any_value("vocab_size hidden_size intermediate_size num_heads num_kv_heads head_dim context_length norm_eps"),
        **any_value("layers gated norm qkv_clip attention_scale attention_softcap sinks"),
        **any_value("qkv_bias o_bias mlp_bias head_bias learned_positions"),
        **any_value("embed_scale embed_scale_rounded residual_scale logit_scale logit_softcap tie_embeddings"),
        "activation": ACTIVATIONS,
        "placement": ("pre", "post", "sandwich", "parallel", "parallel_shared"),
        "qk_norm": QK_NORMS,
    },
    LayerConfig: any_value("rope window chunk experts query_scaling"),
    # Groups are checked for by themselves: only all of them at once are chosen from.
    ExpertsConfig: {
        **any_value("count chosen intermediate_size normalized scale scales_input groups groups_chosen group_score"),
        **any_value("float32_router router_bias selection_bias bias glu shared_size shared_gate"),
        "score": SCORES,
    },
    **SMALL_PARTS,
    **ROTATIONS,
}
"""The fields that the kernels compute; of a model with others the readable model makes the replies."""


def unsupported(config: ModelConfig) -> str | None:
    """Why the kernels cannot compute a model of that kind, without a full stop; None: they can."""
    if config.latent is not None:
        return "latent attention"
    for layer in config.layers:
        if layer.experts is not None and layer.experts.groups_chosen != layer.experts.groups:
            return "experts chosen in groups"
    return why_unknown(config, KNOWN)


def reads_packed(config: ModelConfig, planned: Mapping[str, PackedFormat]) -> bool:
    """Whether the kernels, where they cover a model, do so with the parameters in `planned` packed as said there."""
    sizes = [layer.experts.intermediate_size for layer in config.layers if layer.experts is not None]
    if any(name.endswith(".gate_up_proj") for name in planned) and any(size % ROWS for size in sizes):
        return False
    # One kernel reads gate and up together.
    pairs = ((name.replace(".up_proj.", ".gate_proj."), name.replace(".gate_proj.", ".up_proj.")) for name in planned)
    return not config.gated or all(planned.get(gate) == planned.get(up) for gate, up in pairs)


def why_not_here(device: torch.device) -> str | None:
    """Why the kernels cannot run on that CUDA device, without a full stop; None: nothing speaks against it."""
    if torch.version.cuda is None:
        return "this PyTorch is not for CUDA"
    if (capability := torch.cuda.get_device_capability(device)) < _OLDEST:
        return f"compute capability {capability[0]}.{capability[1]}, less than {_OLDEST[0]}.{_OLDEST[1]}"
    return None if find_spec("triton") else "Triton is not installed"


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    if isinstance(error, CalledProcessError):
        # Its own words are a command of many lines; what went wrong has been printed by the program.
        program = Path(error.cmd[0] if isinstance(error.cmd, list) else str(error.cmd).split()[0]).name
        headers = (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()
        return f"{program} failed with exit code {error.returncode}" + ("" if headers else ", as Python.h is not there")
    return (str(error).splitlines() or [type(error).__name__])[0]
