"""Model folders as mlx-lm writes them: its names, stacks of experts, and quantized matrices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.models.tiny import edit_config
from tests.support.quantized.cases import packed_rows

_EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight")
_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
GROUP = 32


def quantized(values: Tensor, bits: int, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """Parts by suffix, and the decoded values, of matrices (..., N, K), by the formula in MLX's documentation."""
    groups = values.float().reshape(*values.shape[:-1], -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = ((high - low) / ((1 << bits) - 1)).to(dtype).float()
    low = low.to(dtype).float()
    codes = ((groups - low) / scale).round().clamp(0, (1 << bits) - 1)
    words = packed_rows(codes.long().reshape(-1, values.shape[-1]), bits).view(torch.uint32)
    parts = {
        "weight": words.reshape(*values.shape[:-1], -1),
        "scales": scale.squeeze(-1).to(dtype),
        "biases": low.squeeze(-1).to(dtype),
    }
    return parts, (codes * scale + low).reshape(values.shape)


def as_mlx(
    folder: Path, to: Path, bits_of: Callable[[str], int | None], dtype: torch.dtype, heads: tuple[int, int, int]
) -> None:
    """Write the model of `folder` to `to` with MLX's names, matrices in `bits_of` their names bits (None: dense).

    The model in `folder` gets the decoded values. `heads` is the number of heads of latent attention and the sizes of
    the keys without rotation and of the values of each.
    """
    stored = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    stacks: dict[str, list[str]] = {}
    for name in sorted(stored, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")]):
        match = _EXPERT.fullmatch(name)
        stack = name if match is None else f"{match[1]}.switch_mlp.{_MIXTRAL.get(match[3], match[3])}.weight"
        stacks.setdefault(stack, []).append(name)
    written: dict[str, Tensor] = {}
    for stack, names in stacks.items():
        values = stored[names[0]] if names == [stack] else torch.stack([stored[name] for name in names])
        if stack.endswith("kv_b_proj.weight"):
            count, key, value = heads
            whole = values.view(count, key + value, -1)
            embed, unembed = whole[:, :key].transpose(1, 2).contiguous(), whole[:, key:].contiguous()
            keys = store(written, stack.replace("kv_b_proj", "embed_q"), embed, bits_of, dtype)
            others = store(written, stack.replace("kv_b_proj", "unembed_out"), unembed, bits_of, dtype)
            stored[stack] = torch.cat((keys.transpose(1, 2), others), 1).reshape(values.shape).contiguous()
            continue
        decoded = store(written, stack, values, bits_of, dtype)
        for index, name in enumerate(names):
            stored[name] = decoded if names == [stack] else decoded[index].clone()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    to.mkdir()
    for path in folder.glob("*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    save_file(written, to / "model.safetensors", metadata={"format": "mlx"})
    edit_config(to, {"quantization": {"group_size": GROUP, "bits": 4, "mode": "affine"}})


def store(
    written: dict[str, Tensor], name: str, values: Tensor, bits_of: Callable[[str], int | None], dtype: torch.dtype
) -> Tensor:
    """Add the parts of a matrix; returns the decoded values."""
    bits = bits_of(name) if values.ndim > 1 and values.shape[-1] % GROUP == 0 else None
    if bits is None:
        written[name] = values
        return values
    parts, decoded = quantized(values, bits, dtype)
    written |= {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
    return decoded
