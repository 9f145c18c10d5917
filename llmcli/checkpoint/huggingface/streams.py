"""Map parameters of Qwen4-exp's residual streams, n-grams and index to the tensors of Hugging Face checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count, takewhile

from llmcli.checkpoint.huggingface.names import TensorNames
from llmcli.checkpoint.tensors.parameter_sources import Joined, ParameterSource, Source
from llmcli.checkpoint.tensors.recurrent_sources import Reshaped
from llmcli.checkpoint.tensors.small_tensors import read_integers
from llmcli.checkpoint.tensors.tensor_info import StoredTensor, TensorInfo
from llmcli.errors import CheckpointError
from llmcli.model import BlockIndexConfig, ModelConfig, NgramConfig

# What `transformers` saves of the hashes of n-grams, which the configuration gives.
_HASHES = re.compile(r"(?!mtp\.).*\blayers\.(\d{1,5})\.ple\.ple_embedding\.(layer_multipliers|ngram_heads_vocab_sizes)")
# Our names of modules, and those of files.
_MODULES = {
    "attention_residual": "attn_hyper_connection",
    "mlp_residual": "mlp_hyper_connection",
    "gated_streams.mixer": "hyper_connection_mixer",
}
_PARTS = {
    "norm": "hc_norm",
    "mix_down": "input_mix_weight_down",
    "mix_up": "input_mix_weight_up",
    "inject": "block_inject_weight",
}
_NGRAM_PARTS = {"key_norm": "norm_key", "query_norm": "norm_query", "conv_norm": "norm_conv", "conv": "conv1d"}


def stream_source(
    names: TensorNames, at: str, local: str, config: ModelConfig, ngram: NgramConfig | None
) -> ParameterSource | None:
    """The source of the parameter `local` of the layer with the prefix `at`, or of the whole model; None: another part.

    `ngram` describes the layer's n-gram embeddings.
    """
    module, _, part = local.removesuffix(".weight").rpartition(".")
    width = config.streams * config.hidden_size
    if module in _MODULES:
        name = names.full(f"{at}{_MODULES[module]}.{_PARTS[part]}.weight")
        return Reshaped(name, (config.streams, config.hidden_size)) if part == "norm" else Source(name)
    if module != "ngram" or ngram is None:
        return None
    if part == "table":
        return _table(names, f"{at}ple.ple_embedding.ngram_embedding.")
    name = names.full(f"{at}ple.{_NGRAM_PARTS.get(part, part)}.weight")
    if part == "conv":
        return Reshaped(name, (width, ngram.conv_width))
    return Reshaped(name, (config.streams, config.hidden_size)) if part.endswith("_norm") else Source(name)


def _table(names: TensorNames, module: str) -> ParameterSource:
    """The table of n-grams, which files divide."""
    shards = takewhile(names.has, (f"{module}shard_{number}.weight" for number in count()))
    parts = tuple(Source(names.full(name)) for name in shards)
    return Joined(parts) if parts else Source(names.full(f"{module}weight"))


def index_source(names: TensorNames, at: str, module: str, index: BlockIndexConfig) -> Source:
    """The queries or keys of an index of blocks, which are rows of one tensor: those of all queries, then the key."""
    queries = index.heads * index.size
    rows = (0, queries) if module.endswith("q_proj") else (queries, queries + index.size)
    return Source(names.full(f"{at}self_attn.indexer.index_qk_proj.weight"), None, (rows,), queries + index.size)


def check_hashes(tensors: Mapping[str, StoredTensor], config: ModelConfig) -> None:
    """Check that the hashes of n-grams are those of the files, where these state them.

    Raises:
        CheckpointError: they are not, so that the configuration belongs to another table.
    """
    if all(layer.ngram is None for layer in config.layers):
        return
    for name, tensor in tensors.items():
        match = _HASHES.fullmatch(name)
        if match is None or not isinstance(tensor, TensorInfo) or tensor.encoding not in ("I32", "I64"):
            continue
        layer = int(match[1])
        ngram = config.layers[layer].ngram if layer < config.num_layers else None
        if ngram is None:
            continue
        expected = ngram.multipliers if match[2] == "layer_multipliers" else ngram.parts
        if tensor.values != len(expected) or read_integers(tensor) != expected:
            raise CheckpointError(
                f"{tensor.path}: tensor {name} does not hold the hashes of n-grams that seed, vocab_size and "
                "ngram_vocab_size_base in config.json give. Use the one that the weights were published with."
            )
