"""Direct logit attribution: what each component of the model adds to the logit of one token.

The residual stream is the sum of the embedding and the outputs of all attention and feed-forward networks. With the
scale `s` of the final norm held at its actual value the logit is linear in that sum, and its excess over the mean logit
splits into one number per part `c`: `s (c * w) . (u_t - mean u)`, for final norm weight `w` and output rows `u` (Elhage
et al. 2021). Attention splits further into heads, feed-forward into neurons. These are direct effects only: the effect
of a part on later parts counts as theirs.

Dimension letters: L blocks, C hidden size, H query heads, Z size of a value head, I neurons of a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.errors import UsageError
from llmcli.inspection.core.activations import Trace
from llmcli.inspection.core.hooks import Part, adder, attention_blocks, attention_of, blocks, parts_of, scales
from llmcli.inspection.core.linearized_norm import FrozenNorm
from llmcli.inspection.core.neuron_values import Expert, Firing, firing, promotion
from llmcli.inspection.core.tokens import Token, token
from llmcli.loaded_model import LoadedModel
from llmcli.model.block import OutputNormBlock
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment

# Rows of the output head summed at a time, in float32.
_ROWS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class BlockLogit:
    """What one block adds to the logit, including the biases of its projections.

    What a block has instead of attention counts as its attention.
    """

    block: int
    attention: float
    feed_forward: float
    per_layer: float = 0.0
    """Of the token's vector for this block, in models with per-layer embeddings."""


@dataclass(frozen=True)
class LookedAt:
    """The token that a head attends to most."""

    position: int
    id: int
    text: str
    bytes: bytes
    weight: float
    """Attention weight, 0 to 1."""


@dataclass(frozen=True)
class HeadLogit:
    """What one attention head adds to the logit."""

    block: int
    head: int
    logit: float
    looked_at: LookedAt | None = None
    """The token it attends to most, except the first; None if attention was not recorded."""


@dataclass(frozen=True)
class NeuronLogit:
    """What one neuron adds to the logit."""

    block: int
    neuron: int
    expert: Expert
    activation: float
    logit: float
    promotes: tuple[Token, ...]
    """The tokens whose logits it raises most, given the sign of its activation."""
    suppresses: tuple[Token, ...]


@dataclass(frozen=True)
class Attribution:
    """The logit of `token` as a sum: `mean_logit + embedding + bias + rounding + all of blocks`."""

    token: Token
    logit: float
    """Before the soft cap, if the model has one."""
    mean_logit: float
    """Mean over all tokens of the tokenizer."""
    embedding: float
    """Of the last input token, including its learned position embedding if there is one."""
    bias: float
    """Of the final norm and the output head."""
    rounding: float
    """Remainder due to rounding: close to 0 in float32."""
    softcap: float | None
    """The model's logits z are `softcap * tanh(z / softcap)`."""
    blocks: tuple[BlockLogit, ...]
    heads: tuple[HeadLogit, ...]
    """The strongest, in descending order of absolute value."""
    neurons: tuple[NeuronLogit, ...]
    recurrent: tuple[int, ...] = ()
    """Blocks with a recurrent network in place of attention or beside it, which counts as their attention."""


class Direction:
    """The direction in the residual stream of the logit of `target` above the mean logit, at one row of a trace."""

    def __init__(self, loaded: LoadedModel, traced: Trace, row: int, target: int) -> None:
        """`traced` must have all parts; `target` is an id below the tokenizer's `vocab_size`."""
        model, known = loaded.model, loaded.tokenizer.vocab_size
        self._model, self._traced, self._row = model, traced, row
        last = traced.residuals[-1, row]  # (C,)
        norm, scale = FrozenNorm(model.norm, last), model.config.logit_scale
        weight, bias = model.lm_head.weight[:known], model.lm_head.bias
        pieces = [weight[first : first + _ROWS_AT_ONCE] for first in range(0, known, _ROWS_AT_ONCE)]
        mean = torch.stack([rows.float().sum(0) for rows in pieces]).sum(0) / known  # (C,)
        above_mean = (weight[target].float() - mean) * scale
        self._direction = norm.pull_back(above_mean)  # (C,)
        self._scales = scales(model)
        logits = model.lm_head(model.norm(last.to(model.dtype)))[:known].float() * scale
        self.logit, self.mean_logit = float(logits[target]), float(logits.mean())
        self.bias = 0.0 if norm.bias is None else float(norm.bias @ above_mean)
        if bias is not None:
            self.bias += scale * float(bias[target].float() - bias[:known].float().mean())
        self.embedding = float(self.of(traced.residuals[0, row], 0))

    def of(self, added: Tensor, block: int = -1) -> Tensor:
        """Contributions (...) to the logit of vectors (..., C) that a block adds to the residual stream.

        -1: of vectors that are added after the last block.
        """
        return added.float() @ (self._direction * self._scales[block])

    def blocks(self) -> list[BlockLogit]:
        """Contributions of attention and feed-forward of each block."""
        added = self._traced.added
        return [
            BlockLogit(block, **{part: float(self.of(added[part][block, self._row], block)) for part in added})
            for block in range(self._model.config.num_layers)
        ]

    def heads(self) -> Tensor:
        """Contribution of each head of the blocks with attention, (blocks, H); 0 for heads that others have more."""
        logits = []
        for block in attention_blocks(self._model.config):
            z = self._heads(block)  # (H, Z)
            weight = attention_of(self._model, block).o_proj.weight.float()  # (C, H * Z)
            of_heads = (z * (self._in_front(block, "attention") @ weight).view_as(z)).sum(-1)
            logits.append(F.pad(of_heads, (0, self._traced.heads.shape[2] - len(of_heads))))
        return torch.stack(logits) if logits else torch.empty(0, 0)

    def _heads(self, block: int) -> Tensor:
        """The outputs of a block's own heads, (H, Z)."""
        shape = self._model.config.heads_of(self._model.config.layers[block])
        latent = self._model.config.latent
        size = shape.value_dim if latent is None else latent.value_dim
        return self._traced.heads[block, self._row, : shape.count, :size]

    def neurons(self, block: int) -> list[tuple[Firing, Tensor]]:
        """The active networks of a block, each with the contributions of its neurons, (I,)."""
        if "feed_forward" not in parts_of(self._model.config, block):
            return []
        direction = self._in_front(block, "feed_forward")
        return [
            (fired, fired.weight * fired.activations * (direction @ fired.down.float()))
            for fired in firing(blocks(self._model)[block].mlp, self._traced.feed_forward_inputs[block, self._row])
        ]

    def _in_front(self, block: int, part: Part) -> Tensor:
        """The direction before the block's output norm, if it has one; (C,)."""
        place, dtype = blocks(self._model)[block], self._model.dtype
        behind = self._direction * self._scales[block]
        if not isinstance(place, OutputNormBlock):
            return behind
        if part == "attention":
            mixed = self._heads(block).flatten().to(dtype)
            added = attention_of(self._model, block).o_proj(mixed)
        else:
            read = self._traced.feed_forward_inputs[block, self._row].to(dtype)
            added = place.mlp(read[None, None])[0, 0]
        return FrozenNorm(adder(place, part), added).pull_back(behind)


@torch.inference_mode()
def attribution(
    loaded: LoadedModel, traced: Trace, row: int, target: int, *, strongest: int = 5, top: int = 5
) -> Attribution:
    """Attribute the logit of the token `target` at one row of a trace with all parts.

    Includes the `strongest` heads and neurons, and for each neuron the `top` tokens it promotes and suppresses.
    """
    direction = Direction(loaded, traced, row, target)
    parts = direction.blocks()
    added = sum(part.attention + part.feed_forward + part.per_layer for part in parts)
    written = direction.embedding + direction.bias + added
    return Attribution(
        token=token(loaded.tokenizer, target),
        logit=direction.logit,
        mean_logit=direction.mean_logit,
        embedding=direction.embedding,
        bias=direction.bias,
        rounding=direction.logit - direction.mean_logit - written,
        softcap=loaded.config.logit_softcap,
        recurrent=tuple(index for index, layer in enumerate(loaded.config.layers) if layer.mixers),
        blocks=tuple(parts),
        heads=_strongest_heads(direction.heads(), attention_blocks(loaded.config), strongest),
        neurons=strongest_neurons(loaded, direction, strongest, top=top),
    )


@torch.inference_mode()
def strongest_neurons(
    loaded: LoadedModel, direction: Direction, count: int, *, top: int = 5
) -> tuple[NeuronLogit, ...]:
    """The `count` neurons of all blocks with the largest contributions, each with the `top` tokens it promotes."""
    found: list[tuple[float, float, int, int, Firing]] = []
    for block in range(loaded.config.num_layers):
        for fired, logits in direction.neurons(block):
            some = logits.abs().topk(min(count, len(logits))).indices
            values = zip(logits[some].tolist(), fired.activations[some].tolist(), some.tolist(), strict=True)
            found.extend((logit, activation, block, neuron, fired) for logit, activation, neuron in values)
    found.sort(key=lambda item: abs(item[0]), reverse=True)
    strongest = []
    for logit, activation, block, neuron, fired in found[:count]:
        signed = fired.down[:, neuron] * (-1 if activation < 0 else 1)
        promoted = promotion(loaded, block, signed, top)
        strongest.append(
            NeuronLogit(block, neuron, fired.expert, activation, logit, promoted.promotes, promoted.suppresses)
        )
    return tuple(strongest)


def single_token(tokenizer: Tokenizer, text: str) -> int:
    """The single token of `text` as a continuation, or the control token of that name.

    Raises:
        UsageError: `text` is empty or several tokens.
    """
    named = tokenizer.token_to_id(text)
    if named is not None and tokenizer.is_special(named):
        return named
    ids = tokenizer.encode_segments([TextSegment(text, trusted=False)], continuation=True)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise UsageError("The target is empty: give a single token, with the space before it.")
    pieces = ", ".join(repr(tokenizer.token_text(token)) for token in ids)
    raise UsageError(
        f"{text!r} is {len(ids)} tokens ({pieces}), but the target must be a single token. "
        "The space before a word belongs to its token, as in ' Paris'."
    )


def _strongest_heads(logits: Tensor, blocks_with_heads: Sequence[int], count: int) -> tuple[HeadLogit, ...]:
    heads = logits.shape[1]
    best = logits.flatten().abs().topk(min(count, logits.numel())).indices.tolist()
    return tuple(
        HeadLogit(blocks_with_heads[index // heads], index % heads, float(logits.flatten()[index])) for index in best
    )
