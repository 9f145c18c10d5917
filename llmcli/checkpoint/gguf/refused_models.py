"""GGUF models that this program cannot run, each with the reason; checked before any weights are read."""

from __future__ import annotations

import re

from llmcli.checkpoint.gguf.keys import ArchitectureKeys
from llmcli.errors import UnsupportedModelError

_RECURRENT = "layers with a recurrent state of another kind"
_REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "arwkv7",
            "plamo2",
            "rwkv6",
            "rwkv6qwen2",
            "rwkv7",
        ),
        _RECURRENT,
    ),
    **dict.fromkeys(("jais", "refact"), "attention biased by distance (ALiBi)"),
    **dict.fromkeys(("t5", "t5encoder"), "an encoder"),
    **dict.fromkeys(
        ("bert", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "gemma-embedding"),
        "attention to later tokens, so it embeds texts and does not write them",
    ),
}
_STATE_KEY = re.compile(r"[^.]+\.((ssm|shortconv|wkv|kda)\..+)")
_STATE_TENSOR = re.compile(r"blk\.\d+\.(ssm|shortconv|time_mix|kda)[._].+")
# llama.cpp's converter writes the keys of recurrent layers even for their models without any.
_KEYS_WITHOUT_LAYERS = ("granite", "granitemoe")


def refuse_unsupported_gguf(keys: ArchitectureKeys, *, recurrent: bool) -> None:
    """Refuse a model whose metadata or tensor names show a feature that this program lacks.

    `recurrent` architectures have layers with a state that it does not lack.

    Raises:
        UnsupportedModelError: names the feature.
    """
    if keys.architecture in _REASONS:
        raise _unsupported(keys, _REASONS[keys.architecture])
    heads = keys.header.metadata.get(f"{keys.architecture}.attention.head_count_kv")
    if isinstance(heads, list) and 0 in heads and not recurrent:
        layers = [index for index, count in enumerate(heads) if count == 0]
        some = ", ".join(map(str, layers[:4])) + (", ..." if len(layers) > 4 else "")
        raise _unsupported(keys, f"layers without attention heads (block {some})")
    if keys.architecture not in _KEYS_WITHOUT_LAYERS and not recurrent:
        for name in keys.header.metadata:
            if match := _STATE_KEY.fullmatch(name):
                raise _unsupported(keys, f"{_RECURRENT} ({match[1]})")
    for name in keys.header.tensors if not recurrent else ():
        if _STATE_TENSOR.fullmatch(name):
            raise _unsupported(keys, f"{_RECURRENT} ({name})")
    if keys.header.metadata.get(f"{keys.architecture}.attention.causal") is False:
        raise _unsupported(keys, "attention to later tokens, so it embeds texts and does not write them")
    known = 8.0 if keys.architecture == "mpt" else 0.0
    if keys.has("attention.max_alibi_bias") and keys.number("attention.max_alibi_bias") != known:
        raise _unsupported(keys, "attention biased by distance (ALiBi)")


def _unsupported(keys: ArchitectureKeys, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{keys.header.path} describes a model of architecture {keys.architecture!r}, which has {what}; "
        "this is not supported."
    )
