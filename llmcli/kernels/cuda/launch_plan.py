"""The kernel launches for the logits of a few tokens: all of a model's layers, with fixed buffers.

Dimension letters: R rows of buffers: 1, or 16 for several tokens; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor, nn

from llmcli.kernels.cuda.launches import ROWS, TYPES, Launch, Launches
from llmcli.kernels.cuda.moe_launches import add_experts
from llmcli.kernels.cuda.support import QK_NORMS
from llmcli.kernels.cuda.weights import DeviceNorm, floats, matrix, norm
from llmcli.kernels.triton.attention import attend, combine
from llmcli.kernels.triton.linear import embed
from llmcli.model import Transformer
from llmcli.model.attention.attention import Attention
from llmcli.model.block import Block, OutputNormBlock, ParallelBlock, SharedNormBlock
from llmcli.model.config import LayerConfig
from llmcli.model.mixture_of_experts import MixtureOfExperts
from llmcli.model.rope_config import RopeConfig

# Elements of `inputs` before the ids: position of the first token, number of tokens, first position of the rotations.
STATE = 4
_MOST_SPLITS = 64


class LaunchPlan:
    """The launches for `tokens` new tokens, which read `inputs` and `table` and write `logits`."""

    def __init__(
        self,
        model: Transformer,
        tokens: int,
        table: Tensor,
        rotations: Mapping[RopeConfig, tuple[Tensor, Tensor]],
        *,
        programs: int,
        pdl: bool,
    ) -> None:
        """`table` (layers, 4) has the cache's addresses; `rotations` are cosines and sines. A launch should have
        `programs` programs or more, to keep the device busy. With `pdl` (programmatic dependent launch) a kernel may
        start before the one before it has ended.

        Raises:
            NoKernelError: the kernels do not support a format of the weights.
        """
        config = model.config
        self.tokens = tokens
        self._model = model
        self._launches = Launches(model, tokens, programs=programs, pdl=pdl)
        self.inputs = torch.zeros(STATE + self._launches.rows, dtype=torch.int64, device=model.device)
        x = self._launches.new("stream", config.hidden_size)
        self._embedding(x)
        for index, (layer, block) in enumerate(zip(config.layers, model.layers, strict=True)):
            assert isinstance(block, Block)
            rotation = None if layer.rope is None else rotations[layer.rope]
            # Alternate between two buffers, so that no layer overwrites its input.
            x = self._layer(layer, block, x, table[index], rotation, f"after layer {index % 2}")
        self.logits = self._launches.new("logits", config.vocab_size)
        self._launches.linear(
            [matrix(model.lm_head)], x, self.logits, norm(model.norm, config.hidden_size, self._model.device),
            factor=config.logit_scale, softcap=config.logit_softcap,
        )  # fmt: skip

    @property
    def formats(self) -> str:
        """The formats of the matrices, shown to users."""
        return "/".join(self._launches.formats)

    @property
    def launches(self) -> Sequence[Launch]:
        """All launches, in order."""
        return self._launches.all

    def launch(self) -> None:
        """Compute the logits (R, V) of the tokens in `inputs` with the cache in `table`."""
        for launch in self._launches.all:
            launch()

    def _embedding(self, x: Tensor) -> None:
        config, model = self._model.config, self._model
        factor = config.embed_scale
        if config.embed_scale_rounded:
            factor = torch.tensor(factor, dtype=model.dtype).item()
        table = matrix(model.embed_tokens)
        learned = model.embed_positions
        self._launches.add(
            embed, (self.tokens,), self.inputs[STATE:], table.data,
            self._launches.none if learned is None else matrix(learned).data, self.inputs, x, factor,
            size=config.hidden_size, bits=table.bits, group=table.group, learned=learned is not None,
            block=triton.next_power_of_2(config.hidden_size),
        )  # fmt: skip

    def _layer(
        self, layer: LayerConfig, block: Block, x: Tensor, table: Tensor, rotation: tuple[Tensor, Tensor] | None,
        name: str,
    ) -> Tensor:  # fmt: skip
        """Add a layer's launches; returns the residual stream after the layer, in the buffer `name`."""
        hidden = self._model.config.hidden_size
        outputs: tuple[nn.Module, nn.Module] = (nn.Identity(), nn.Identity())
        if isinstance(block, OutputNormBlock):
            outputs = block.attention_output_norm, block.mlp_output_norm
        first = norm(block.input_layernorm, hidden, self._model.device)
        second = first
        if not isinstance(block, SharedNormBlock):
            second = norm(block.post_attention_layernorm, hidden, self._model.device)
        attention = block.self_attn
        assert isinstance(attention, Attention)
        attended = self._attention(layer, attention, x, first, table, rotation)
        after = self._onto(attention.o_proj, attended, x, outputs[0], "between")
        read = x if isinstance(block, ParallelBlock | SharedNormBlock) else after
        if isinstance(block.mlp, MixtureOfExperts):
            return add_experts(self._launches, block.mlp, read, second, after, outputs[1], name)
        network: Any = block.mlp
        fired = self._launches.neurons(network, read, second)
        return self._onto(network.down_proj, fired, after, outputs[1], name)

    def _attention(
        self, layer: LayerConfig, attention: Attention, x: Tensor, before: DeviceNorm, table: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        config, tokens = self._model.config, self.tokens
        heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
        qkv = self._launches.new("qkv", (heads + 2 * kv_heads) * size)
        projections = attention.q_proj, attention.k_proj, attention.v_proj
        self._launches.linear([matrix(projection) for projection in projections], x, qkv, before)
        normed = QK_NORMS[config.qk_norm] if rotation is not None or config.qk_norm != "rotated" else 0
        queries, keys = (
            norm(module if normed in (1, 2) else nn.Identity(), count * size, self._model.device)
            for module, count in ((attention.q_norm, heads), (attention.k_norm, kv_heads))
        )
        in_group = heads // kv_heads * tokens
        splits = max(1, min(_MOST_SPLITS, -(-self._launches.programs // kv_heads)))
        block = max(16, triton.next_power_of_2(size))
        tile = _attention_tile(in_group, block * self._model.dtype.itemsize)
        parts = self._launches.new("parts", tokens * heads * size, splits)
        sums = self._launches.new("sums", tokens * heads * 2, splits)
        scaling = layer.query_scaling
        cos, sin = rotation or (self._launches.none, self._launches.none)
        self._launches.add(
            attend, (kv_heads, splits, -(-in_group // tile["rows"])), qkv, table, self.inputs,
            queries.weight, queries.bias, keys.weight, keys.bias, cos, sin, parts, sums,
            config.norm_eps, config.qkv_clip or 0.0, attention.attend.scale, config.attention_softcap or 0.0,
            scaling.beta if scaling else 0.0, scaling.interval if scaling else 1, scaling.offset if scaling else 0,
            heads=heads, kv_heads=kv_heads, real=size, rotary=0 if rotation is None else 2 * cos.shape[1],
            window=layer.window or 0, chunk=layer.chunk or 0, norm=normed, kind=queries.kind,
            clipped=config.qkv_clip is not None, capped=config.attention_softcap is not None,
            scaled=scaling is not None, tokens=tokens, splits=splits, fresh=ROWS, block=block,
            stored=TYPES[self._model.dtype], operand=self._launches.operand, **tile,
        )  # fmt: skip
        mixed = self._launches.new("mixed", heads * size)
        sinks = attention.sinks
        self._launches.add(
            combine, (heads, tokens), parts, sums, self._launches.none if sinks is None else floats(sinks), mixed,
            heads=heads, real=size, has_sinks=sinks is not None, tokens=tokens, splits=splits,
            most_splits=triton.next_power_of_2(splits), block=block,
        )  # fmt: skip
        return mixed

    def _onto(self, projection: nn.Module, x: Tensor, residual: Tensor, output: nn.Module, name: str) -> Tensor:
        """Launch `residual + output(projection(x))`, where `output` is a norm or factor; written to buffer `name`."""

        def compute(y: Tensor, onto: Tensor | None, factor: float) -> None:
            self._launches.linear([matrix(projection)], x, y, residual=onto, factor=factor)

        return self._launches.normed_onto(residual, output, name, compute)


def _attention_tile(in_group: int, head_bytes: int) -> dict[str, int]:
    """Rows and keys of a product, and warps, for `in_group` rows in a group and heads of `head_bytes` bytes.

    Queries, and several stages of keys and values, fit into the 99 KiB of shared memory that the smallest GPUs give a
    program, and the sums into its registers; a test reads both from the compiled kernels.
    """
    rows = min(64, max(ROWS, triton.next_power_of_2(in_group)), max(ROWS, 16384 // head_bytes))
    keys = 64 if rows * head_bytes <= 4096 else 32 if head_bytes <= 512 else 16
    return {"rows": rows, "keys": keys, "num_warps": 8 if head_bytes >= 512 and rows * head_bytes >= 16384 else 4}
