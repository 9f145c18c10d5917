"""The check that logits are finite, and the search for the first part of the model whose output is not.

The check costs one pass over the logits. The search runs the model's blocks once more, and only after a failure.

Dimension letters: B batch, T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from llmcli.errors import NotFiniteError
from llmcli.model.quantized.matrix import PackedMatrix

# Tokens of a text that the readable model runs to find the first output that is not finite.
_READ_TO_LOCATE = 128
_NOT_A_NUMBER = "The model's output is not a number (NaN or infinite)"


def are_finite_logits(logits: Tensor) -> bool:
    """Whether every row of `logits` (..., V) has a finite greatest value: no NaN, no +inf.

    -inf is the logit of an excluded token; a row with nothing else is not a distribution.
    """
    # The greatest value of a row with NaN is NaN.
    return bool(logits.detach().amax(-1).isfinite().all())


def check_logits(logits: Tensor) -> Tensor:
    """Check `logits` (..., V) and return them unchanged.

    Raises:
        NotFiniteError: a row has NaN or +inf, or nothing but -inf.
    """
    if not are_finite_logits(logits):
        raise not_finite()
    return logits


def check_greatest(greatest: float) -> None:
    """`check_logits` for a row whose greatest logit is known; NaN must count as greater than any number.

    Raises:
        NotFiniteError: the greatest logit is NaN or infinite.
    """
    if not math.isfinite(greatest):
        raise not_finite()


def not_finite() -> NotFiniteError:
    """The error for logits that are not finite, where the part of the model at fault is unknown."""
    return NotFiniteError(
        f"{_NOT_A_NUMBER}. Its weights may be damaged, or too large for this precision: try --dtype float32."
    )


@torch.inference_mode()
def located(error: NotFiniteError, read: Callable[[list[int]], object], ids: Sequence[int]) -> NotFiniteError:
    """Return an error that names the layer, found by running the beginning and the end of the text `ids` again.

    `read` runs ids through the readable model, which raises the error that names the layer. If it does not raise,
    `error` is returned unchanged.
    """
    if error.located:
        return error
    try:
        for part in (ids[:_READ_TO_LOCATE], ids[-_READ_TO_LOCATE:]):
            read(list(part))
    except NotFiniteError as found:
        return found
    return error


def first_not_finite(
    embedded: Tensor,
    blocks: Sequence[nn.Module],
    run: Callable[[int, Tensor], Tensor],
    embedding: Mapping[str, nn.Module],
    head: Mapping[str, nn.Module],
) -> NotFiniteError:
    """The error that names the first part of the model whose output is not finite.

    `embedded` (B, T, C) is the input of the first of the `blocks`, and `run(index, x)` the output of block `index` for
    input `x`. If the outputs of all blocks are finite, the error names the `head`.
    """
    if not _finite(embedded):
        return _error("the embedding", embedded.dtype, embedding)
    x = embedded
    for index, block in enumerate(blocks):
        x = run(index, x)
        if not _finite(x):
            return _error(f"block {index}", x.dtype, {"": block})
    return _error("the output head", x.dtype, head)


def _error(where: str, dtype: torch.dtype, modules: Mapping[str, nn.Module]) -> NotFiniteError:
    name = str(dtype).removeprefix("torch.")
    damaged = next((found for found in _weights(modules) if not _finite(found[1])), None)
    narrow = dtype is torch.float16
    if damaged is None and narrow:
        words = f"{name} overflows in {where}; --dtype bfloat16 or float32 would help"
    elif damaged is None:
        words = f"values overflow in {where}, even in {name}: its weights are damaged, or far too large"
    elif narrow and not bool(damaged[1].isnan().any()):
        words = (
            f"{where} has infinite weights ({damaged[0]}). If they are too large for {name}, --dtype bfloat16 or "
            "float32 would help; otherwise the model's files are damaged"
        )
    else:
        words = (
            f"{where} has weights that are not numbers ({damaged[0]}). The model's files are damaged, and no --dtype "
            "helps: fetch the model again, or make it again"
        )
    return NotFiniteError(f"{_NOT_A_NUMBER}: {words}.", located=True)


def _weights(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all weights in the modules; packed matrices are dequantized one at a time."""
    for outer, whole in modules.items():
        for name, module in whole.named_modules(prefix=outer):
            for own, parameter in module.named_parameters(recurse=False):
                yield f"{name}.{own}".removeprefix("."), parameter
            if isinstance(module, PackedMatrix):
                for index in range(module.count):
                    yield name.removesuffix(".matrix"), module[index]


def _finite(values: Tensor) -> bool:
    return bool(values.isfinite().all())
