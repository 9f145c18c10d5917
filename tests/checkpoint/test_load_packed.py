"""Weights read straight into packed blocks equal those of a dense read, as far as their format allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from llmcli.checkpoint.checkpoint import open_checkpoint
from llmcli.checkpoint.load_packed import Packing
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.tensors.encodings import ENCODINGS
from llmcli.checkpoint.tensors.repack import bits_of, groups_of
from llmcli.model import Transformer
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedEmbedding, QuantizedLinear
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.kernels.packed_blocks import SCALES, sound_blocks
from tests.support.models.tiny import random_ids
from tests.support.models.tiny_checkpoints import tiny_checkpoint

EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "IQ4_NL", "TQ1_0", "TQ2_0", "MXFP4")
# Codes are kept, and scales rounded to half precision.
CODES_KEPT = (*EXACT, "Q4_K", "IQ1_S", "IQ2_XXS", "IQ3_XXS", "IQ3_S", "IQ4_XS")


@pytest.mark.parametrize("name", SCALES)
def test_packed_blocks_keep_the_stored_values(name: str) -> None:
    raw = sound_blocks(name, 12, 3)
    expected = ENCODINGS[name].decode(raw.flatten(0, 1)).view(12, -1)
    groups = groups_of(name, raw)
    assert groups.kind[0] == bits_of(name)
    values = groups.values()
    if name in EXACT:
        assert torch.equal(values, expected)
    error = float((values - expected).norm() / expected.norm())
    assert error < (0.0005 if name in CODES_KEPT else 0.006)


def test_every_block_format_is_packed() -> None:
    assert {name for name in ENCODINGS if bits_of(name)} == set(SCALES)


def loaded(path: Path, packing: Packing | None) -> Transformer:
    return load_weights(open_checkpoint(path), torch.device("cpu"), torch.float32, packing=packing)


def weights(model: Transformer, name: str) -> torch.Tensor:
    """A parameter by its name in a dense model."""
    parent, _, last = name.rpartition(".")
    values: Any = getattr(model.get_submodule(parent), last)
    if isinstance(values, PackedMatrix):
        return torch.stack([values[index] for index in range(values.count)])
    assert isinstance(values, torch.Tensor)
    return values


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [
        ("llama 3.1", Kind.Q4_0, {}),  # paired rows of queries and keys
        ("llama 3.2, tied", Kind.Q4_1, {}),
        ("llama, biases, wide heads", Kind.Q4_1, {}),
        ("phi-3, longrope, short", Kind.Q5_0, {}),  # fused query-key-value and gate-up tensors
        ("gemma 2", Kind.Q8_0, {}),
        ("mixtral", Kind.Q4_0, {}),  # separate stacks of gate and up
        ("mixtral", Kind.Q8_0, {"old": True}),  # one matrix per expert
        ("qwen3-moe", Kind.Q4_1, {"joined": True}),
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_packed_reading_gives_the_values_of_dense_reading(
    name: str, kind: Kind, form: dict[str, bool], compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("llmcli.checkpoint.load_weights.block_packer", lambda: None)
    sizes = {"moe_intermediate_size": 32} if name == "qwen3-moe" else {}
    model = made(name, intermediate_size=64, hidden_size=32 if name.startswith("phi") else 64, **sizes)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(kind), **form)  # type: ignore[arg-type]
    packed, dense = loaded(path, "stored"), loaded(path, None)
    for parameter, values in dense.named_parameters():
        assert torch.equal(weights(packed, parameter), values), parameter
    kinds = (QuantizedLinear, PackedMatrix)
    assert sum(isinstance(module, kinds) for module in packed.modules()) > 10
    assert isinstance(packed.embed_tokens, QuantizedEmbedding) and isinstance(packed.lm_head, QuantizedLinear)
    assert (packed.lm_head.matrix is packed.embed_tokens.matrix) == dense.config.tie_embeddings
    with torch.inference_mode():
        ids = torch.tensor([random_ids(20)])
        torch.testing.assert_close(packed(ids), dense(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("kind", "packing"), [(Kind.Q5_1, "stored"), (Kind.F16, "int8"), (Kind.Q4_1, "int4"), (Kind.Q8_0, "int8")]
)
def test_any_number_of_threads_packs_what_torch_packs(
    kind: Kind, packing: Packing, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("mixtral", hidden_size=64, intermediate_size=96)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(kind))
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    in_c = loaded(path, packing)
    monkeypatch.setattr("llmcli.checkpoint.load_weights.block_packer", lambda: None)
    by_torch = loaded(path, packing)
    matrices = {name: matrix for name, matrix in by_torch.named_modules() if isinstance(matrix, PackedMatrix)}
    assert len(matrices) > 10
    for name, matrix in matrices.items():
        ours: Any = in_c.get_submodule(name)
        assert all(torch.equal(ours[index], matrix[index]) for index in range(matrix.count)), name


def test_plain_float_tensors_are_not_packed(tmp_path: Path) -> None:
    model = made("llama 3.1", hidden_size=64)
    path = write_gguf(model, tmp_path / "model.gguf", kind_of=quantized(Kind.Q8_0, "ffn"))
    packed = loaded(path, "stored")
    assert isinstance(packed.layers[0].get_submodule("mlp.up_proj"), QuantizedLinear)
    assert isinstance(packed.layers[0].get_submodule("self_attn.q_proj"), torch.nn.Linear)
    assert isinstance(packed.embed_tokens, torch.nn.Embedding)


def test_parameters_with_parts_of_several_formats_get_8_bits(tmp_path: Path) -> None:
    def kind_of(name: str, values: Any) -> Kind:
        if "ffn_gate_exps" in name or "ffn_up_exps" in name:
            return Kind.Q4_0 if "gate" in name else Kind.Q8_0
        return Kind.F32

    path = write_gguf(made("mixtral", hidden_size=64, intermediate_size=48), tmp_path / "model.gguf", kind_of=kind_of)
    packed, dense = loaded(path, "stored"), loaded(path, None)
    name = "layers.0.mlp.experts.gate_up_proj"
    ours, theirs = weights(packed, name), weights(dense, name)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.005


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize(("packing", "limit"), [("int8", 0.006), ("int4", 0.09)])
def test_models_of_several_families_can_be_packed(family: str, packing: Packing, limit: float, tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, family)
    packed, dense = loaded(path, packing), loaded(path, None)
    packed_matrices = 0
    for parameter, values in dense.named_parameters():
        ours = weights(packed, parameter)
        assert float((ours - values).norm() / values.norm()) < limit, parameter
        packed_matrices += not torch.equal(ours, values)
    assert packed_matrices >= 3 * 4
    assert isinstance(packed.lm_head, QuantizedLinear)
    assert packed.lm_head.matrix.bits == 8
