"""Find the quantization settings of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmcli.checkpoint.families.config_keys import ConfigKeys
from llmcli.checkpoint.files.json_files import optional_json_object
from llmcli.checkpoint.files.weight_file import shown
from llmcli.checkpoint.tensors.tensor_info import TensorInfo
from llmcli.errors import CheckpointError


def quantization_settings(tensors: Mapping[str, TensorInfo], config: ConfigKeys, folder: Path) -> ConfigKeys | None:
    """The keys that describe the quantization, from any of their places; None if there are none."""
    mlx = config.get("quantization")
    if isinstance(mlx, dict) and mlx.keys() & {"bits", "group_size", "mode"}:
        # MLX may leave a `quantization_config` of the model that it was made from.
        return ConfigKeys({**mlx, "quant_method": "mlx"}, config.path)
    for keys in (config, config.section("text_config")):
        for name in ("quantization_config", "compression_config"):
            settings = None if keys is None else keys.section(name)
            if settings is not None:
                return settings
    path = folder / "hf_quant_config.json"
    settings = ConfigKeys(optional_json_object(path), path).section("quantization")
    if settings is not None:
        return ConfigKeys({"quant_method": "modelopt", **settings.values}, path)
    packed = next((info for name, info in tensors.items() if name.endswith(".qweight")), None)
    if packed is None:
        return None
    # Older tools wrote a separate file, without the name of the method.
    for path, method in ((folder / "quantize_config.json", "gptq"), (folder / "quant_config.json", "awq")):
        if path.exists():
            return ConfigKeys({"quant_method": method, **optional_json_object(path)}, path)
    raise CheckpointError(
        f"{packed.path} holds quantized weights such as {shown(packed.name)}, but {config.path} has no "
        "quantization_config that says how. Download the model again."
    )
