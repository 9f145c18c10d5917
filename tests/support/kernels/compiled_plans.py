"""Compile the kernels that real models would launch; no GPU is needed.

By `python -m tests.support.kernels.compiled_plans 90 llama`, in a process where kernels are not interpreted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llmcli.kernels.cuda.dequantize import _launch
from llmcli.kernels.cuda.launch_plan import LaunchPlan
from llmcli.kernels.cuda.launches import Launch
from llmcli.model import ClampedGLU, ExpertsConfig, LayerConfig, ModelConfig, NormStyle, RopeConfig, Transformer
from llmcli.model.quantized.layout import PackedFormat, wide
from llmcli.model.quantized.matrix import PackedMatrix, QuantizedEmbedding, QuantizedLinear

from llmcli.kernels.triton.dequantize import unpack  # isort: skip

_ROPE = RopeConfig(5e5, 128)
_LLAMA_8B = ModelConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128,
    context_length=8192, norm_eps=1e-5, layers=(LayerConfig(_ROPE),),
)  # fmt: skip
# Together they cover everything decided at compile time: norms, softcaps, windows, biases, sinks, experts.
_GEMMA_2 = replace(
    _LLAMA_8B, hidden_size=2304, intermediate_size=9216, num_heads=8, num_kv_heads=1, head_dim=256,
    layers=(LayerConfig(RopeConfig(1e4, 256), window=4096),), norm=NormStyle(plus_one=True), placement="sandwich",
    activation="gelu_tanh", attention_softcap=50.0, logit_softcap=30.0, embed_scale=48.0, qk_norm="head",
)  # fmt: skip
_GPT_OSS = replace(
    _LLAMA_8B, hidden_size=2880, num_heads=64, head_dim=64, qkv_bias=True, o_bias=True,
    layers=(LayerConfig(RopeConfig(1e4, 64), window=128, sinks=True, experts=ExpertsConfig(
        32, 4, 2880, score="softmax_of_chosen", router_bias=True, bias=True, glu=ClampedGLU(1.7, 7.0), shared_size=512,
        shared_gate=True,
    )),),
)  # fmt: skip
_GPT_2 = replace(
    _LLAMA_8B, vocab_size=50257, hidden_size=768, intermediate_size=3072, num_heads=12, num_kv_heads=12, head_dim=64,
    layers=(LayerConfig(None),), norm=NormStyle("layer", bias=True), gated=False, activation="gelu", mlp_bias=True,
    qkv_bias=True, o_bias=True, learned_positions=True,
)  # fmt: skip
_MODELS: dict[str, tuple[ModelConfig, PackedFormat | None, tuple[int, ...]]] = {
    "llama": (_LLAMA_8B, None, (1, 16)),
    "llama, int4 g32": (_LLAMA_8B, wide(4, 32), (1,)),
    "llama, int4 g128": (_LLAMA_8B, wide(4), (1, 16)),
    "llama, int8 by row": (_LLAMA_8B, wide(8), (1,)),
    "llama, int8 g128": (_LLAMA_8B, wide(8, 128), (1,)),
    # The most rows in the products of attention, with the largest heads.
    "gemma 2": (_GEMMA_2, None, (16,)),
    "gpt-oss, int4 g32": (_GPT_OSS, wide(4, 32), (4,)),
    "gpt-oss, int4 g128": (_GPT_OSS, wide(4), (1,)),
    "gpt-2, int8 g32": (_GPT_2, wide(8, 32), (8,)),
}
_TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64", torch.int32: "*i32",
    torch.uint8: "*u8",
}  # fmt: skip
# Limits of a program on the smallest supported GPUs (compute capability 8.6 and 8.9).
_SHARED_BYTES = 99 * 1024


def _model(config: ModelConfig, kept: PackedFormat | None) -> Transformer:
    """A model without allocated weights."""
    with torch.device("meta"):
        model = Transformer(config).bfloat16()
        if kept is None:
            return model

        def matrix(values: torch.Tensor) -> PackedMatrix:
            made = PackedMatrix(kept, *values.shape[-2:], dtype=torch.bfloat16, count=values.shape[:-2].numel())
            return made.to("meta")

        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and child.out_features > 1:
                    setattr(module, name, QuantizedLinear(matrix(child.weight), bias=child.bias is not None))
            for name in ("gate_up_proj", "down_proj"):
                if isinstance(values := getattr(module, name, None), nn.Parameter):
                    delattr(module, name)
                    setattr(module, name, matrix(values))
        model.embed_tokens = QuantizedEmbedding(matrix(model.embed_tokens.weight))
        return model


def _launches(arch: int, names: list[str]) -> Iterator[tuple[str, Launch]]:
    for name in names:
        config, kept, sizes = _MODELS[name]
        model = _model(config, kept)
        rope = config.layers[0].rope
        tables = {} if rope is None else {rope: (torch.zeros(1024, rope.rotary_dim // 2, device="meta"),) * 2}
        table = torch.zeros(1, 4, dtype=torch.int64, device="meta")
        for tokens in sizes:
            plan = LaunchPlan(model, tokens, table, tables, programs=264, pdl=arch >= 90)
            yield from ((f"{name}, {tokens}", launch) for launch in plan.launches)
        if kept is not None:
            yield name, _unpacking(kept)


def _unpacking(kept: PackedFormat) -> Launch:
    """The dequantization kernels of a matrix, for a prompt."""
    found = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **constants: found.append(Launch(unpack, grid, arguments, constants))

    matrix = PackedMatrix(kept, 4096, 14336, dtype=torch.bfloat16).to("meta")
    _launch(Kernel(), matrix, 0, 4096, torch.empty(4096, 14336, dtype=torch.bfloat16, device="meta"))
    return found[0]


def _source(launch: Launch) -> tuple[Any, dict[str, Any]]:
    """The kernel with the types of its arguments, as Triton makes it at a launch; and the options of the compiler."""
    names = launch.kernel.arg_names
    signature: dict[str, str] = {}
    constants: dict[str, object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for index, (name, value) in enumerate(zip(names, launch.arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int) and value != 1:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name], constants[name] = "constexpr", value
    for name in names[len(launch.arguments) :]:
        signature[name], constants[name] = "constexpr", launch.constants[name]
    options = {name: value for name, value in launch.constants.items() if name not in names}
    return ASTSource(launch.kernel, signature, constants, attributes), options


def main(arch: int, *names: str) -> None:
    """Compile every kernel that these models launch to machine code; print a line for each new one."""
    done = set()
    for name, launch in _launches(arch, list(names)):
        source, options = _source(launch)
        key = source.hash(), str(options)
        if key in done:
            continue
        done.add(key)
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        assert compiled.asm["cubin"]
        assert compiled.metadata.shared <= _SHARED_BYTES, (name, launch.kernel, compiled.metadata.shared)
        ptx = compiled.asm["ptx"]
        wide = ptx.count("evict_first.L2::cache_hint.v4.b32") + ptx.count("cp.async.cg")
        waits = ptx.count("griddepcontrol.wait")
        print(f"{name}: {launch.kernel.__name__}: {wide} wide loads, {waits} waits, {compiled.metadata.shared} bytes")
        if launch.kernel is unpack:
            # Rounded to nearest, and written 16 bytes at a time.
            assert "cvt.rn.bf16" in ptx and ptx.count("st.global") == ptx.count("st.global.v4.b32")
            assert wide
            continue
        assert waits == (1 if arch >= 90 else 0)
        # Before it waits for earlier kernels, a kernel may read weights only, and most do.
        ahead = ptx[: ptx.find("griddepcontrol.wait")] if waits else ""
        assert ahead.count("ld.global") == ahead.count("ld.global.L1::evict_first"), (name, launch.kernel)
        assert not waits or "evict_first" in ahead or launch.kernel.__name__ not in ("linear", "feed_forward")
        # A program for one token exchanges only its sums between threads, at the end.
        by_itself = launch.constants.get("bits") and launch.constants.get("tokens") == 1
        assert not by_itself or compiled.metadata.shared <= 1024, name
        # Weights are loaded 16 bytes at a time: with smaller loads, issuing them takes longer than the transfer.
        assert wide or launch.kernel.__name__ not in ("linear", "feed_forward", "experts_in", "experts_out", "attend")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
