"""The starter model against llama.cpp, which shares no code with ours: same ids, same probabilities.

From the same weights in float32 the two differ by the order of additions only. From the file's four-bit weights
llama.cpp rounds what they are multiplied with to eight bits as well, which moves its own perplexity by 0.42 %.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llmcli
from llmcli.loaded_model import LoadedModel

TOKENS = 1000
_F32 = 0  # GGML_TYPE_F32

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python (the extra bench) is not installed")


@pytest.fixture(scope="module")
def ours() -> LoadedModel:
    return llmcli.load(device="cpu", dtype="float32")


@pytest.mark.starter
def test_perplexity_and_top_tokens_equal_those_of_llama_cpp(ours: LoadedModel) -> None:
    ids = _ids(ours)
    found, expected = ours.logits(ids), _of_llama_cpp(ours.source, ids)
    assert abs(_perplexity(found, ids) / _perplexity(expected, ids) - 1) < 0.005
    assert _agreement(found, expected) >= 0.95


@pytest.mark.starter
def test_the_default_path_is_as_close_to_llama_cpp() -> None:
    loaded = llmcli.load(device="cpu")
    if loaded._step(None).capabilities.most_each == 1:
        pytest.skip("the readable model computes here: there is no C compiler")
    ids = _ids(loaded)
    found, expected = _of_the_kernel(loaded, ids), _of_llama_cpp(loaded.source, ids)
    # Measured: 14.1852 against 14.2498, 0.45 % lower, and 96.7 % of the most probable tokens equal.
    assert abs(_perplexity(found, ids) / _perplexity(expected, ids) - 1) < 0.005
    assert _agreement(found, expected) >= 0.95


@pytest.mark.starter
def test_float32_logits_equal_those_of_llama_cpp_up_to_rounding(ours: LoadedModel, tmp_path: Path) -> None:
    ids = _ids(ours)
    path = tmp_path / "decoded.gguf"
    try:
        _write_decoded(ours.source, path)
        # The KV cache would be float16 otherwise.
        expected = _of_llama_cpp(path, ids, type_k=_F32, type_v=_F32)
    finally:
        # Half a gigabyte, which pytest would keep for three runs.
        path.unlink(missing_ok=True)
    found = ours.logits(ids)
    assert abs(_perplexity(found, ids) / _perplexity(expected, ids) - 1) < 1e-4
    assert _agreement(found, expected) >= 0.998
    # Measured: at most 0.0007 apart.
    assert float((found - expected).abs().max()) < 0.02


def _ids(loaded: LoadedModel) -> list[int]:
    # A text that will not change.
    ids = loaded.tokenizer.encode((Path(__file__).parents[1] / "LICENSE").read_text())[:TOKENS]
    assert len(ids) == TOKENS
    return ids


def _of_the_kernel(loaded: LoadedModel, ids: list[int]) -> torch.Tensor:
    """Logits after each token, from decode steps of the fast path."""
    reader = loaded.engine()._prefix_cache
    reader.begin(ids, len(ids))
    rows = [reader.read(ids[:1])[None]]
    while reader.length < len(ids):
        text = ids[: reader.length + 16]
        rows.append(reader.read_each(text, len(text) - reader.length))
    return torch.cat(rows).float()


def _of_llama_cpp(path: Path, ids: list[int], **options: Any) -> torch.Tensor:
    theirs = llama_cpp.Llama(str(path), n_ctx=1024, n_batch=512, logits_all=True, verbose=False, **options)
    try:
        theirs.reset()
        theirs.eval(ids)
        return torch.from_numpy(theirs.scores[: len(ids)]).clone()
    finally:
        theirs.close()


def _write_decoded(source: Path, path: Path) -> None:
    """The same model with float32 weights, decoded by the gguf package."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _perplexity(logits: torch.Tensor, ids: list[int]) -> float:
    """Perplexity: exp of the mean negative log-probability of all tokens but the first."""
    targets = torch.tensor(ids[1:])
    return math.exp(torch.nn.functional.cross_entropy(logits[:-1], targets))


def _agreement(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The share of positions at which both have the same most probable token."""
    return float((found.argmax(-1) == expected.argmax(-1)).float().mean())
