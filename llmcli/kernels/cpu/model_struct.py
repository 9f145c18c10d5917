"""Describe a `Transformer` to the C kernel: pointers to its weights, and its options as numbers."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from llmcli.kernels.base import NoKernelError
from llmcli.kernels.cpu import c_structs as c
from llmcli.kernels.cpu.layer_struct import describe_layer
from llmcli.kernels.cpu.support import ACTIVATIONS, QK_NORMS, unsupported
from llmcli.kernels.cpu.weight_structs import WeightStructs, dense_format
from llmcli.model import Transformer
from llmcli.model.block import ParallelBlock, SharedNormBlock
from llmcli.model.residual.per_layer_embeddings import PerLayerEmbeddings


class Description:
    """The C structure of a model; `weights` keeps the memory it points to."""

    def __init__(self, model: Transformer, *, capacity: int) -> None:
        """`capacity` is the greatest number of tokens in a call.

        Raises:
            NoKernelError: the kernel does not support the model's configuration, device or data type.
        """
        config = model.config
        if reason := unsupported(config):
            raise NoKernelError(reason)
        if model.device.type != "cpu":
            raise NoKernelError(f"the model is on {model.device.type}")
        self.weights = weights = WeightStructs()
        self.dtype = model.dtype
        self.cache_dtypes = [torch.int8 if config.caches_int8(layer) else model.dtype for layer in config.layers]
        ropes = list(dict.fromkeys(layer.rope for layer in config.layers if layer.rope is not None))
        layers = (c.Layer * config.num_layers)(
            *(
                describe_layer(weights, config, layer, block, -1 if layer.rope is None else ropes.index(layer.rope))
                for layer, block in zip(config.layers, model.layers, strict=True)
            )
        )
        weights.kept.append(layers)
        factor = config.embed_scale
        if config.embed_scale_rounded:
            factor = torch.tensor(factor, dtype=model.dtype).item()
        first = model.layers[0]
        self.model = c.Model(
            layers=config.num_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            streams=1,
            first_sharing=config.first_sharing,
            capacity=capacity,
            activation=ACTIVATIONS.index(config.activation),
            gated=config.gated,
            parallel=isinstance(first, ParallelBlock | SharedNormBlock),
            shared_norm=isinstance(first, SharedNormBlock),
            qk_norm=QK_NORMS.index(config.qk_norm),
            cache_format=c.FORMATS["int8_rows"] if config.int8_cache else dense_format(model.dtype),
            input_format=dense_format(model.dtype),
            clip=config.qkv_clip or 0,
            softcap=config.attention_softcap or 0,
            embed_scale=factor,
            logit_scale=config.logit_scale,
            logit_softcap=config.logit_softcap or 0,
            embedding=weights.matrix(model.embed_tokens),
            head=weights.head(model.lm_head),
            embed_norm=weights.norm(model.embed_norm or nn.Identity()),
            norm=weights.norm(model.norm),
            layer=ctypes.cast(layers, ctypes.POINTER(c.Layer)),
        )
        self.model.rounded_biases = config.alibi is not None and config.alibi.as_score
        if config.attention_gate is not None:
            self.model.gate_per_head = config.attention_gate.per_head
            self.model.gate_softplus = config.attention_gate.activation == "softplus"
        if model.embed_positions is not None:
            self.model.positions = weights.matrix(model.embed_positions)
        if model.head_layer is not None:
            assert config.head_layer is not None
            self.model.head_dense = weights.matrix(model.head_layer.dense)
            self.model.head_norm = weights.norm(model.head_layer.norm)
            self.model.head_activation = ACTIVATIONS.index(config.head_layer.activation)
        if model.per_layer_embeddings is not None:
            self.model.per_layer = self._per_layer(model.per_layer_embeddings)
        if (streams := model.altup_streams) is not None:
            self.model.streams = streams.streams
            self.model.spread = self._matrices(streams.projections)
            self.model.merge = self._matrices(streams.unembed_projections)

    def _per_layer(self, embeddings: PerLayerEmbeddings) -> c.PerLayer:
        return c.PerLayer(
            table=self.weights.table(embeddings.embed_tokens),
            projection=self.weights.matrix(embeddings.projection),
            norm=self.weights.norm(embeddings.norm),
            size=embeddings.size,
            tokens=embeddings.tokens,
            # Rounded to the type of the weights first, as in training.
            table_scale=torch.tensor(embeddings.table_scale, dtype=self.dtype).item(),
            projection_scale=embeddings.projection_scale,
        )

    def _matrices(self, stack: Tensor) -> ctypes.Array[c.Matrix]:
        matrices = (c.Matrix * len(stack))(*map(self.weights.matrix, stack))
        self.weights.kept.append(matrices)
        return matrices
