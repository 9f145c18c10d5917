"""Rules of Qwen4-exp: an index of blocks in attention, gated residual streams, and the hashes of its n-grams.

Source: transformers 5.24, models/qwen4_exp.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from llmcli.checkpoint.families.config_keys import ConfigKeys, in_short
from llmcli.checkpoint.families.delta_rules import delta_mixer, gated_attention
from llmcli.checkpoint.families.layer_rules import FULL, LINEAR
from llmcli.errors import CheckpointError
from llmcli.model import BlockIndexConfig, GatedResidualConfig, NgramConfig, NormStyle

# More hashes than any model has would take long to find the primes for.
_MOST_HASHES = 1 << 12
# SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195).
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_64_BITS = (1 << 64) - 1
# Between the seeds of layers.
_SEED_STEP = 10007
# Bases with which the Miller-Rabin test is exact below 3,215,031,751 (Jaeschke 1993).
_WITNESSES = (2, 3, 5, 7)


def qwen4_layers(keys: ConfigKeys, kinds: list[str]) -> list[dict[str, Any]]:
    """Gated delta nets, some with embeddings of n-grams, and attention with an index of blocks."""
    mixer = delta_mixer(keys, gate="sigmoid" if keys.get("output_gate_type") == "sigmoid" else "silu")
    index = _block_index(keys) if FULL in kinds else None
    extras: list[dict[str, Any]] = [{"mixer": mixer} if kind == LINEAR else {"block_index": index} for kind in kinds]
    for layer, ngram in zip(_ngram_layers(keys, kinds), _ngrams(keys), strict=False):
        extras[layer]["ngram"] = ngram
    return extras


def qwen4_extras(keys: ConfigKeys) -> dict[str, Any]:
    """Gated attention, and gated residual streams, of which the last read is what the output head gets."""
    streams = GatedResidualConfig(keys.integer("hc_count", minimum=2), keys.integer("hc_lowrank"))
    return {**gated_attention(keys), "gated_residual": streams, "final_norm": NormStyle("none")}


def _block_index(keys: ConfigKeys) -> BlockIndexConfig:
    budget, block = keys.integer("indexer_budget"), keys.integer("indexer_compress_ratio")
    if budget % block:
        raise CheckpointError(f"{keys.path}: indexer_budget must be a multiple of indexer_compress_ratio.")
    if keys.integer("indexer_kv_heads") != 1:
        raise CheckpointError(f"{keys.path} has indexer_kv_heads = {keys.integer('indexer_kv_heads')}; 1 is needed.")
    return BlockIndexConfig(
        keys.integer("indexer_n_heads"), keys.integer("indexer_head_dim"), block, chosen=budget // block
    )


def _ngram_layers(keys: ConfigKeys, kinds: list[str]) -> list[int]:
    """The layers with n-gram embeddings, in order; files count layers from 1."""
    listed = sorted(set(keys.integers("ple_layer_ids") or ()))
    if any(not 1 <= number <= len(kinds) or kinds[number - 1] != LINEAR for number in listed):
        raise CheckpointError(
            f"{keys.path} has ple_layer_ids = {in_short(listed)}; numbers of linear attention layers, from 1 on, are "
            "needed."
        )
    return [number - 1 for number in listed]


def _ngrams(keys: ConfigKeys) -> Iterator[NgramConfig]:
    """The embeddings of the first layer that has any, of the second, and so on."""
    longest, each = keys.integer("ngram_size", minimum=2), keys.integer("heads_per_ngram")
    size = keys.optional_integer("ple_embed_dim") or keys.integer("hidden_size")
    hashes = (longest - 1) * each
    if hashes > _MOST_HASHES or size % hashes:
        raise CheckpointError(
            f"{keys.path}: n-grams of up to {longest} tokens with {each} hashes each cannot share {size} values evenly."
        )
    multiple = keys.integer("make_ngram_vocab_size_divisible_by")
    primes = primes_from(keys.integer("ngram_vocab_size_base"))
    number = 0
    while True:
        parts = tuple(islice(primes, hashes))
        yield NgramConfig(
            size,
            multipliers(keys.integer("vocab_size"), longest, keys.integer("seed", minimum=0) + _SEED_STEP * number),
            parts,
            rows=-(-sum(parts) // multiple) * multiple,
            boundary=_boundary(keys),
            conv_width=keys.integer("ple_conv_kernel_size"),
        )
        number += 1


def _boundary(keys: ConfigKeys) -> int:
    """The token that n-grams do not reach across: the first that ends a text."""
    stated = keys.get("eos_token_id")
    first = next(iter(keys.integers("eos_token_id") or ()), None) if isinstance(stated, list) else stated
    return ConfigKeys({"eos_token_id": first}, keys.path).integer("eos_token_id", minimum=0)


def multipliers(vocabulary: int, count: int, seed: int) -> tuple[int, ...]:
    """`count` odd numbers, drawn by SplitMix64, whose products with token ids fit 63 bits."""
    half = max(1, ((1 << 63) - 1) // vocabulary // 2)
    starts = ((seed + _GAMMA * number) & _64_BITS for number in range(1, count + 1))
    return tuple(2 * (_split_mix(start) % half) + 1 for start in starts)


def _split_mix(state: int) -> int:
    value = (state + _GAMMA) & _64_BITS
    value = ((value ^ (value >> 30)) * _FIRST) & _64_BITS
    value = ((value ^ (value >> 27)) * _SECOND) & _64_BITS
    return value ^ (value >> 31)


def primes_from(start: int) -> Iterator[int]:
    """The primes from `start` on, which is below 2^31."""
    number = max(start, 2)
    while True:
        if _is_prime(number):
            yield number
        number += 1


def _is_prime(number: int) -> bool:
    if number in _WITNESSES or any(number % witness == 0 for witness in _WITNESSES):
        return number in _WITNESSES
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in _WITNESSES:
        value = pow(witness, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True
