"""The prologue of every kernel that multiplies with weights: wait for the activations, and normalize them.

Dimension letters: K columns, M tokens (1 or 16).
"""

import triton
import triton.language as tl

NO_NORM = tl.constexpr(0)
RMS_NORM = tl.constexpr(1)
LAYER_NORM = tl.constexpr(2)


@triton.jit
def let_next_start(pdl: tl.constexpr):
    """Allow the next kernel to be launched early; it waits with `wait_for_previous` for this kernel's results."""
    if pdl:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_previous(pdl: tl.constexpr):
    """Wait for earlier kernels: after this, their results can be read and their inputs overwritten."""
    if pdl:
        tl.extra.cuda.gdc_wait()


@triton.jit
def statistics(x, eps, size: tl.constexpr, norm: tl.constexpr, tokens: tl.constexpr):
    """Inverse standard deviation and mean, both (1, M), of `x` (M, K); for RMSNorm the inverse root mean square."""
    step: tl.constexpr = 1024 // tokens
    token = tl.arange(0, tokens)[None, :]
    total = tl.zeros([step, tokens], tl.float32)
    mean = tl.zeros([1, tokens], tl.float32)
    if norm == LAYER_NORM:
        for at in range(0, size, step):
            k = at + tl.arange(0, step)[:, None]
            total += tl.load(x + token * size + k, mask=k < size, other=0.0)
        mean = tl.sum(total, 0, keep_dims=True) / size
        total = tl.zeros([step, tokens], tl.float32)
    if norm != NO_NORM:
        for at in range(0, size, step):
            k = at + tl.arange(0, step)[:, None]
            value = tl.load(x + token * size + k, mask=k < size, other=0.0)
            value = tl.where(k < size, value - mean, 0.0)
            total += value * value
        return tl.rsqrt(tl.sum(total, 0, keep_dims=True) / size + eps), mean
    else:
        return mean, mean


@triton.jit
def activations(x, token, k, inverse, mean, weight, bias, size: tl.constexpr, norm: tl.constexpr):
    """Load and normalize activations of `token` and column `k`, two tensors that broadcast; zero beyond the last
    column.
    """
    value = tl.load(x + token * size + k, mask=k < size, other=0.0)
    if norm == LAYER_NORM:
        value = (value - mean) * inverse * tl.load(weight + k, mask=k < size, other=0.0)
        value += tl.load(bias + k, mask=k < size, other=0.0)
    elif norm == RMS_NORM:
        value = value * inverse * tl.load(weight + k, mask=k < size, other=0.0)
    return value
