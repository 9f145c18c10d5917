"""Memory is estimated before loading, and suggested settings fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import llmcli
from llmcli.checkpoint import memory_estimate
from llmcli.checkpoint.checkpoint import Checkpoint, open_checkpoint
from llmcli.checkpoint.load_packed import Packing, planned_formats
from llmcli.checkpoint.load_weights import load_weights
from llmcli.checkpoint.memory_estimate import LoadRequest, check_memory, footprint
from llmcli.errors import OutOfMemoryError
from llmcli.model.meta_device import meta_model
from llmcli.model.quantized.matrix import PackedMatrix
from llmcli.sizes import size
from tests.support.gguf.families import made, quantized
from tests.support.gguf.writer import write_gguf
from tests.support.models.recurrent_cases import RECURRENT
from tests.support.models.tiny_checkpoints import tiny_checkpoint
from tests.support.terminal.cli import llm

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Wide enough that packed blocks are mostly weights, with a cache of notable size.
    sizes = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 8192}
    return tiny_checkpoint(tmp_path_factory.mktemp("m") / "model", "llama", **sizes)


def set_free_memory(monkeypatch: pytest.MonkeyPatch, nbytes: int | None) -> None:
    monkeypatch.setattr(memory_estimate, "memory", lambda device: (1 << 40, nbytes))


def needed_bytes(checkpoint: Checkpoint, packing: Packing | None, dtype: torch.dtype, context: int | None) -> int:
    model = meta_model(checkpoint.config)
    return footprint(model, planned_formats(model, packing, checkpoint, CPU), dtype, context, CPU).total


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("packing", [None, "int8", "int4"])
@pytest.mark.parametrize("tied", [True, False])
def test_estimated_weights_and_cache_equal_the_real_ones(
    family: str, packing: Packing | None, tied: bool, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, family, tie_word_embeddings=tied))
    shadow = meta_model(checkpoint.config)
    told = footprint(shadow, planned_formats(shadow, packing, checkpoint, CPU), torch.bfloat16, 128, CPU)
    model = load_weights(checkpoint, CPU, torch.bfloat16, packing=packing)
    packed = {id(module): module.nbytes for module in model.modules() if isinstance(module, PackedMatrix)}
    assert told.weights == sum(parameter.nbytes for parameter in model.parameters()) + sum(packed.values())
    assert told.cache == model.new_cache(capacity=128).nbytes
    assert told.working > 0


@pytest.mark.parametrize("case", ["qwen 3.5", "qwen 4"])
def test_the_estimate_holds_when_a_text_has_all_its_marks(case: str, tmp_path: Path) -> None:
    """States of a text and of a pass, the marks of a long text, and the one before proposals."""
    model_type, overrides = RECURRENT[case]
    checkpoint = open_checkpoint(tiny_checkpoint(tmp_path, model_type, **overrides))
    told = footprint(meta_model(checkpoint.config), {}, torch.float32, 128, CPU)
    model = load_weights(checkpoint, CPU, torch.float32)
    cache, tokens = model.new_cache(capacity=128), torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        for _ in range(40):
            model(tokens, cache)
            cache.mark()
        model(tokens, cache)
        cache.mark(brief=True)
        model(tokens, cache)
    one = checkpoint.config.state_bytes(4)
    # The states of the next pass are missing.
    assert cache.nbytes + one == told.cache
    assert one * 10 < cache.nbytes


def test_stored_blocks_are_counted_in_their_packed_size(tmp_path: Path) -> None:
    path = write_gguf(made("llama 3.1", hidden_size=64), tmp_path / "m.gguf", kind_of=quantized(Kind.Q4_0))
    checkpoint = open_checkpoint(path)
    stored, int8, none = (needed_bytes(checkpoint, packing, torch.bfloat16, 16) for packing in ("stored", "int8", None))
    assert stored < int8 < none


def test_sliding_windows_reduce_the_cache(tmp_path: Path) -> None:
    sizes = {"max_position_embeddings": 4096}
    whole = open_checkpoint(tiny_checkpoint(tmp_path / "whole", "mistral", **sizes, sliding_window=None))
    window = open_checkpoint(tiny_checkpoint(tmp_path / "window", "mistral", **sizes, sliding_window=64))
    assert needed_bytes(window, None, torch.bfloat16, 4096) < needed_bytes(whole, None, torch.bfloat16, 4096)


@pytest.mark.parametrize("packing", [None, "int8", "int4"])
@pytest.mark.parametrize("context", [None, 8192])
def test_one_byte_too_little_is_refused(
    packing: Packing | None, context: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(folder)
    wish = LoadRequest(CPU, torch.bfloat16, packing, context)
    needed = needed_bytes(checkpoint, packing, torch.bfloat16, context)
    set_free_memory(monkeypatch, needed)
    check_memory(meta_model(checkpoint.config), checkpoint, wish)
    set_free_memory(monkeypatch, needed - 1)
    with pytest.raises(OutOfMemoryError) as refused:
        check_memory(meta_model(checkpoint.config), checkpoint, wish)
    told = str(refused.value)
    assert f"takes {size(needed)}," in told
    assert f"cpu has {size(needed - 1)} free" in told
    assert ("8192 tokens" in told) == (context is not None)


def test_unknown_free_memory_refuses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_memory(monkeypatch, None)
    checkpoint = open_checkpoint(folder)
    check_memory(meta_model(checkpoint.config), checkpoint, LoadRequest(CPU, torch.float32, context=8192))


def suggestions(message: str) -> list[str]:
    """The settings that an error suggests."""
    listed = message.partition("This would fit: ")[2].removesuffix("; see llm help models.")
    return [re.sub(r" \(.*\)", "", one) for one in listed.split(", ")] if listed else []


@pytest.mark.parametrize("share", [0.99, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.05])
@pytest.mark.parametrize("context", [None, 5000])
def test_suggested_settings_are_those_that_fit(
    share: float, context: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(folder)
    free = int(needed_bytes(checkpoint, None, torch.float32, context) * share)
    set_free_memory(monkeypatch, free)
    with pytest.raises(OutOfMemoryError) as refused:
        check_memory(meta_model(checkpoint.config), checkpoint, LoadRequest(CPU, torch.float32, context=context))
    found = suggestions(str(refused.value))
    for offer in found:
        words = offer.split()
        flags = dict(zip(words[::2], words[1::2], strict=True))
        packing: Any = flags.get("--quantize")
        dtype = getattr(torch, flags.get("--dtype", "float32"))
        length = int(flags["--context"]) if "--context" in flags else context
        assert needed_bytes(checkpoint, packing, dtype, length) <= free
        if "--context" in flags:
            assert length is not None
            assert needed_bytes(checkpoint, packing, dtype, length + 256) > free
    for packing in ("int8", "int4"):
        assert (f"--quantize {packing}" in found) == (needed_bytes(checkpoint, packing, torch.float32, context) <= free)
        # No larger change is suggested if this one is enough.
        assert not any(f"--quantize {packing} --" in one for one in found if f"--quantize {packing}" in found)
    if not found:
        assert "use a smaller model" in str(refused.value)


def test_quantizing_is_not_suggested_where_it_is_impossible(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(folder)
    set_free_memory(monkeypatch, needed_bytes(checkpoint, None, torch.float32, None) - 1)
    with pytest.raises(OutOfMemoryError) as refused:
        check_memory(meta_model(checkpoint.config), checkpoint, LoadRequest(CPU, torch.float32, may_pack=False))
    assert suggestions(str(refused.value)) == ["--dtype bfloat16"]


def test_commands_exit_with_5_before_weights_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("llmcli.checkpoint.load_weights.TensorReader", never)
    set_free_memory(monkeypatch, needed_bytes(open_checkpoint(folder), None, torch.bfloat16, 2048))
    flags = ("-m", folder, "-n", 1, "--device", "cpu", "--dtype", "bfloat16", "--context", 8192)
    result = llm("generate", "hi", *flags)
    told = result.stderr.decode()
    assert (result.returncode, result.stdout) == (5, b""), told
    assert "--context 2048" in told.replace("\n", " ")
    assert "--quantize" not in llm("score", "hi there", *flags[:2], *flags[4:]).stderr.decode()


def test_the_python_api_raises_the_same_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_memory(monkeypatch, 1000)
    with pytest.raises(llmcli.errors.OutOfMemoryError, match=r"takes .* cpu has 1000 B free"):
        llmcli.load(folder, device="cpu", context_length=100)


def test_a_gpu_needs_memory_for_longer_prefill_chunks(folder: Path) -> None:
    model = meta_model(open_checkpoint(folder).config)
    planned = planned_formats(model, "int4", None, CPU)
    here, there = (
        footprint(model, planned, torch.bfloat16, 4096, torch.device(device)) for device in ("cpu", "cuda:1")
    )
    assert (there.weights, there.cache) == (here.weights, here.cache)
    # Four times the activations, and the buffer of unpacked matrices.
    largest = max(parameter.numel() for parameter in model.parameters())
    assert 2 * here.working + 12 * largest < there.working < 4 * here.working + 12 * largest
