"""The whole model, from token ids to logits.

Dimension letters: B batch, T new tokens, R texts of a batch with separate lengths, C hidden size, V vocabulary.
Attribute names are those of Hugging Face checkpoints, so tensors of the common families need no renaming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from llmcli.errors import NotFiniteError, PromptTooLongError, UnsupportedModelError
from llmcli.model.attention.attention import Positions
from llmcli.model.attention.compressed_blocks import BlockPositions, visible_blocks
from llmcli.model.attention.rope import Rope
from llmcli.model.attention.scaled_dot_product import visible_keys
from llmcli.model.block import make_block
from llmcli.model.cache.kv_cache import REWIND, ROOM, KVCache, LayerCache
from llmcli.model.config import LayerConfig, ModelConfig
from llmcli.model.feed_forward import DenseHead
from llmcli.model.finite import are_finite_logits, check_logits, first_not_finite, located
from llmcli.model.norm import make_norm
from llmcli.model.quantized.matrix import QuantizedEmbedding, QuantizedLinear
from llmcli.model.residual.altup import AltUpStreams
from llmcli.model.residual.gated_residual import GatedStreams
from llmcli.model.residual.hyper_connections import HyperStreams
from llmcli.model.residual.per_layer_embeddings import PerLayerEmbeddings
from llmcli.model.rope_config import RopeConfig


class Transformer(nn.Module):
    """A decoder-only language model (Vaswani et al. 2017; Touvron et al. 2023, arXiv:2302.13971)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = config.vocab_size
        """Number of tokens of the tokenizer. Later rows of the head are padding, and their logits are undefined."""
        self.embed_tokens: nn.Embedding | QuantizedEmbedding = nn.Embedding(config.token_rows, config.hidden_size)
        self.embed_positions = (
            nn.Embedding(config.context_length, config.hidden_size) if config.learned_positions else None
        )
        self.embed_norm = (
            None if config.embed_norm is None else make_norm(config.hidden_size, config.norm_eps, config.embed_norm)
        )
        self.per_layer_embeddings = None if config.per_layer is None else PerLayerEmbeddings(config, config.per_layer)
        self.altup_streams = None if config.altup is None else AltUpStreams(config, config.altup)
        self.hyper_streams = None if config.hyper is None else HyperStreams(config, config.hyper)
        self.gated_streams = None if config.gated_residual is None else GatedStreams(config, config.gated_residual)
        self.layers = nn.ModuleList(make_block(config, layer, index) for index, layer in enumerate(config.layers))
        self.norm = make_norm(config.hidden_size, config.norm_eps, config.final_norm or config.norm)
        self.head_layer = None if config.head_layer is None else DenseHead(config, config.head_layer)
        self.lm_head: nn.Linear | QuantizedLinear = nn.Linear(
            config.hidden_size, config.token_rows, bias=config.head_bias
        )
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        # Layers with the same RoPE share its tables; layers that also have the same window, chunks and blocks share the
        # mask.
        self._distinct_ropes = list(dict.fromkeys(layer.rope for layer in config.layers if layer.rope is not None))
        self.ropes = nn.ModuleList(Rope(rope) for rope in self._distinct_ropes)
        keys = [
            (layer.rope, layer.window, layer.chunk, layer.attends, layer.blocks, layer.block_index)
            for layer in config.layers
        ]
        kinds = dict(zip(keys, config.layers, strict=True))
        self._kinds = list(kinds.values())
        self._kind_of_layer = [list(kinds).index(key) for key in keys]

    @property
    def dtype(self) -> torch.dtype:
        """The data type of activations and of the KV cache."""
        embedding = self._embedding
        return embedding.matrix.dtype if isinstance(embedding, QuantizedEmbedding) else embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        embedding = self._embedding
        weights = embedding.matrix.blocks if isinstance(embedding, QuantizedEmbedding) else embedding.weight
        return weights.device

    @property
    def streams(self) -> AltUpStreams | HyperStreams | GatedStreams | None:
        """What makes several residual streams from the embedding, and one from them at the end; None: there is one."""
        return self.altup_streams or self.hyper_streams or self.gated_streams

    @property
    def _embedding(self) -> nn.Embedding | QuantizedEmbedding:
        """The token embedding; where it is split over ranks, the rows that are here."""
        embedding: nn.Embedding | QuantizedEmbedding = getattr(self.embed_tokens, "embedding", self.embed_tokens)
        return embedding

    def new_cache(self, *, batch: int = 1, capacity: int = 256, rewind: int = REWIND, room: int = ROOM) -> KVCache:
        """An empty KV cache that fits this model, its device and its dtype."""
        return KVCache(
            self.config,
            batch=batch,
            capacity=capacity,
            dtype=self.dtype,
            device=self.device,
            rewind=rewind,
            room=room,
        )

    def forward(
        self, ids: Tensor, cache: KVCache | None = None, *, only_last: bool = False, brief: bool = False
    ) -> Tensor:
        """Logits of the token that follows each of `ids`.

        `ids` (B, T) continue the text in `cache`; without a cache they are the whole text. Returns (B, T, V), or with
        `only_last` (B, 1, V) for the last token, all that prefill needs. With `brief` besides, the last blocks compute
        only that token if they read the keys and values of earlier blocks; forward hooks then see it alone.

        Raises:
            PromptTooLongError: the text is longer than the model's learned positions.
            NotFiniteError: logits are NaN or infinite; the error names the first layer with such an output.
        """
        start, new = (cache.length if cache is not None else 0), ids.shape[1]
        self.check_positions(start + new)
        if cache is not None:
            cache.begin(new)
        expected = cache.expected_length if cache is not None else 0
        embedded, per_layer = self._embed(ids, slice(start, start + new))  # (B, T, C)
        places = self._places(start, new, expected, per_layer, ids)
        first = self.config.first_sharing
        if only_last and brief and first < self.config.num_layers:
            x = self._run_blocks(embedded, places, cache, slice(first))
            x = self._run_blocks(x[:, -1:], [place.of_last() for place in places], cache, slice(first, None))
        else:
            x = self._run_blocks(embedded, places, cache)
        if only_last:
            x = x[:, -1:]
        logits = self._head(x)  # (B, T, V)
        if not are_finite_logits(logits[..., : self.vocabulary]):
            raise self._not_finite(embedded, places, cache)
        if cache is not None:
            cache.advance(new)
        return logits

    def run_from_layer(
        self, x: Tensor, first: int, stop: int | None = None, *, start: int = 0, cache: LayerCache | None = None
    ) -> Tensor:
        """Run blocks `first` to `stop`: the residual stream (B, T, C) before block `stop`, by default after the last.

        `x` (B, T, C) is the residual stream before block `first`: of whole texts, or from position `start` on of texts
        whose beginning is in `cache`, which is not advanced. Earlier blocks are not run, so repeated calls are cheap.

        Raises:
            UnsupportedModelError: blocks read more than the residual stream, see `why_not_restartable`.
        """
        if reason := self.config.why_not_restartable:
            raise UnsupportedModelError(f"The model cannot be run from a block on: {reason}.")
        return self._run_blocks(x, self._places(start, x.shape[1], 0), cache, slice(first, stop))

    def forward_at(
        self,
        ids: Tensor,
        position: Tensor,
        rotations: Mapping[RopeConfig, tuple[Tensor, Tensor]],
        mask: Callable[[LayerConfig], Tensor],
        cache: LayerCache,
    ) -> Tensor:
        """Logits (1, 1, V) after one decode step of the token `ids` (1, 1) at `position` (1,), a tensor on the device.

        No value of the position is read on the host, so a CUDA graph can record the step once and replay it for every
        position. `rotations` are the position's cosines and sines; `mask` gives for a kind of layer which of the
        positions that `cache` returns are visible, (1, S).
        """
        lent: dict[int, tuple[Tensor, Tensor]] = {}
        chosen: dict[int, Tensor | None] = {}
        x, per_layer = self._embed(ids, position)
        places = [
            Positions(
                position,
                None if layer.rope is None else rotations[layer.rope],
                mask(layer),
                lent,
                chosen,
                per_layer,
                ids,
            )
            for layer in self._kinds
        ]
        return self._head(self._run_blocks(x, places, cache))

    def unembed(self, x: Tensor) -> Tensor:
        """Apply the final norm and the output head to a residual stream `x` (..., C): logits (..., V).

        With several streams it has the width of all together, (..., S C).

        Raises:
            NotFiniteError: logits of the vocabulary are NaN or infinite.
        """
        logits = self._head(x)
        check_logits(logits[..., : self.vocabulary])
        return logits

    def located(self, error: NotFiniteError, ids: Sequence[int]) -> NotFiniteError:
        """`error`, naming the layer it comes from if the model raises it too when it reads the text `ids`."""
        return located(error, lambda part: self(torch.tensor([part], device=self.device)), ids)

    def rotated_alike(self, length: int, other: int) -> bool:
        """Whether texts of these two lengths have the same rotations, so that one can reuse the other's cache."""
        ropes = self._distinct_ropes
        return all(rope.decisive_length(length) == rope.decisive_length(other) for rope in ropes)

    def check_positions(self, length: int) -> None:
        """Raise `PromptTooLongError` if a text of `length` tokens is longer than the model's learned positions."""
        if self.config.learned_positions and length > self.config.context_length:
            raise PromptTooLongError(
                f"The text has {length} tokens, but the model has positions for {self.config.context_length} only."
            )

    def _embed(self, ids: Tensor, positions: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """The residual stream (B, T, C) before the first block, and the per-layer embeddings (B, T, L, P) if any."""
        x: Tensor = self.embed_tokens(ids)
        if self.config.embed_scale != 1:
            factor = self.config.embed_scale
            x = x * (torch.tensor(factor, dtype=x.dtype).item() if self.config.embed_scale_rounded else factor)
        if self.embed_positions is not None:
            x = x + self.embed_positions.weight[positions]
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        per_layer = None if self.per_layer_embeddings is None else self.per_layer_embeddings(ids, x)
        return (x if self.streams is None else self.streams.spread(x)), per_layer

    def _places(
        self, start: int, new: int, expected: int, per_layer: Tensor | None = None, ids: Tensor | None = None
    ) -> list[Positions]:
        """Positions, rotations and mask of the tokens `start` to `start + new`, for each kind of layer.

        `expected` is the text's expected length in tokens, on which some rotations depend. `per_layer` are the tokens'
        per-layer embeddings, `ids` (B, T) the tokens.
        """
        positions = torch.arange(start, start + new, device=self.device)
        length = max(start + new, expected)
        rotations = {
            config: rope(positions, self.dtype, length)
            for config, rope in zip(self._distinct_ropes, self.ropes, strict=True)
        }
        lent: dict[int, tuple[Tensor, Tensor]] = {}
        chosen: dict[int, Tensor | None] = {}
        return [
            Positions(
                positions,
                None if layer.rope is None else rotations[layer.rope],
                visible_keys(layer, start, new, self.device),
                lent,
                chosen,
                per_layer,
                ids,
                self._block_positions(layer, start, new, length),
                self._block_starts(layer, start + new, length),
            )
            for layer in self._kinds
        ]

    def _block_positions(self, layer: LayerConfig, start: int, new: int, length: int) -> BlockPositions | None:
        """The compressed blocks of a kind of layer, for the `new` tokens from `start` on of a text of that `length`."""
        if layer.blocks is None or layer.rope is None:
            return None
        earlier, complete = layer.blocks.complete(start), layer.blocks.complete(start + new)
        firsts = torch.arange(earlier, complete, device=self.device) * layer.blocks.rate
        rotation = self.ropes[self._distinct_ropes.index(layer.rope)](firsts, self.dtype, length)
        return BlockPositions(earlier, rotation, visible_blocks(layer.blocks, start, new, self.device))

    def _block_starts(self, layer: LayerConfig, seen: int, length: int) -> tuple[Tensor, Tensor] | None:
        """Rotations of the first positions of whole blocks among `seen` keys, for a layer with an index of blocks.

        `length` is that of the text, in tokens. None if the layer has no rotations, or sees all keys.
        """
        index = layer.block_index
        if index is None or layer.rope is None or seen // index.block <= index.chosen:
            return None
        positions = torch.arange(0, seen - index.block + 1, index.block, device=self.device)
        rope = self.ropes[self._distinct_ropes.index(layer.rope)]
        rotations: tuple[Tensor, Tensor] = rope(positions, self.dtype, length)
        return rotations

    def _run_blocks(
        self, x: Tensor, places: Sequence[Positions], cache: LayerCache | None, run: slice = slice(None)
    ) -> Tensor:
        """The residual stream (B, T, C) after the blocks of `run`, which enters the first of them as `x` (B, T, C)."""
        for block, kind in zip(self.layers[run], self._kind_of_layer[run], strict=True):
            x = block(x, places[kind], cache)
        return x

    def _head(self, x: Tensor) -> Tensor:
        """`unembed` without the check: a pass that a CUDA graph records must not wait for the device."""
        if self.streams is not None:
            x = self.streams.merge(x)
        x = self.norm(x)
        if self.head_layer is not None:
            x = self.head_layer(x)
        return self._capped(self.lm_head(x))

    def _not_finite(self, embedded: Tensor, places: Sequence[Positions], cache: KVCache | None) -> NotFiniteError:
        """Repeat the last pass to find the first part of the model whose output is not finite."""

        def run(index: int, x: Tensor) -> Tensor:
            y: Tensor = self.layers[index](x, places[self._kind_of_layer[index]], cache)
            return y

        head: dict[str, nn.Module] = {"norm": self.norm}
        if self.head_layer is not None:
            head["head_layer"] = self.head_layer
        head["lm_head"] = self.lm_head
        embedding: dict[str, nn.Module] = {"embed_tokens": self.embed_tokens}
        if self.embed_positions is not None:
            embedding["embed_positions"] = self.embed_positions
        if self.embed_norm is not None:
            embedding["embed_norm"] = self.embed_norm
        if self.streams is not None:
            name = next(name for name, module in self.named_children() if module is self.streams)
            embedding[name] = head[name] = self.streams
        return first_not_finite(embedded, list(self.layers), run, embedding, head)

    def _capped(self, logits: Tensor) -> Tensor:
        if self.config.logit_scale != 1:
            logits = logits * self.config.logit_scale
        if self.config.logit_softcap is not None:
            logits = self.config.logit_softcap * torch.tanh(logits / self.config.logit_softcap)
        return logits
