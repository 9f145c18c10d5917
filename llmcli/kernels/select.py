"""Choose the step that runs a model on a device, and say why no kernel can."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmcli.device import Device
from llmcli.kernels.base import FastStep, NoKernelError
from llmcli.kernels.trust.first_use import Tell, check_kernel, note_failure, why_distrusted
from llmcli.model.config import ModelConfig

if TYPE_CHECKING:
    from llmcli.model import Transformer


def fast_step(model: Transformer, reason: str, *, threads: int | None = None, tell: Tell) -> FastStep:
    """The fastest step of a model; a `ReadableStep` if no kernel can run it. `reason` says why none can, if known.

    A kernel that has never run on this machine is first compared with the readable model, and one that fails in its
    first pass is replaced; `tell` is called with a line for the user in both cases. `threads` is for the CPU kernel.
    """
    device = model.device
    # A failed check is reported again in each process.
    unknown = not reason or reason == why_distrusted(device)
    if device.type == "cuda":
        reason = (check_kernel(device, tell) or "") if unknown else reason
        return cuda_step(model, reason, lambda error: note_failure(device, error, tell))
    if not unknown:
        return _readable_step(model, reason)
    from llmcli.kernels.cpu.step import CpuStep
    from llmcli.kernels.trust.guarded_step import GuardedStep

    try:
        step = CpuStep(model, threads=threads)
    except NoKernelError as error:
        return _readable_step(model, str(error))
    if fault := check_kernel(device, tell):
        return _readable_step(model, fault)
    return GuardedStep(step, model, lambda error: note_failure(device, error, tell))


def why_no_kernel(config: ModelConfig | None, device: Device) -> str | None:
    """Why no kernel can run a model with that `config` on `device`, without a full stop; None: one can.

    Without a `config`: why none can run any model. On a CPU the kernel is compiled if necessary, which takes seconds. A
    kernel that failed its check on this machine is not used; the check itself is not made here.
    """
    if device.type == "cuda":
        import torch

        from llmcli.kernels.cuda.support import unsupported, why_not_here

        assert isinstance(device, torch.device)
        return (unsupported(config) if config is not None else None) or why_not_here(device) or why_distrusted(device)
    return why_not_on_cpu(config, device)


def why_not_on_cpu(config: ModelConfig | None, device: Device) -> str | None:
    """Why the CPU kernel cannot run a model with that `config` on `device`, without a full stop; None: it can.

    Without a `config`: why it cannot run any model. The kernel is compiled if necessary, which takes seconds.
    """
    from llmcli.kernels.cpu.build import load_library
    from llmcli.kernels.cpu.support import unsupported

    if device.type != "cpu":
        return f"no kernel for {device.type}"
    if config is not None and (reason := unsupported(config)):
        return reason
    try:
        load_library()
    except NoKernelError as error:
        return str(error)
    return why_distrusted(device)


def cuda_step(model: Transformer, reason: str | None, failed: Callable[[str], None] | None = None) -> FastStep:
    """The fastest step of a model on a CUDA device; `reason` says why it cannot be the Triton kernels, if known.

    Tried in order: the Triton kernels, a CUDA graph of the readable model's decode step, the readable model. `failed`
    is called with the reason if the kernels fail in their first pass.
    """

    def fallback(model: Transformer, reason: str) -> FastStep:
        if failed is not None:
            failed(reason)
        return slower_step(model, reason)

    if not reason:
        try:
            from llmcli.kernels.cuda.step import CudaStep

            return CudaStep(model, fallback)
        except NoKernelError as error:
            reason = str(error)
        except ImportError as error:
            # A library that Triton needs is missing, or has another version.
            from llmcli.kernels.cuda.support import first_line

            reason = f"Triton cannot be imported: {first_line(error)}"
    return slower_step(model, reason)


def slower_step(model: Transformer, reason: str) -> FastStep:
    """The step if the Triton kernels cannot run for `reason`: a CUDA graph of the readable model, or that itself."""
    import torch

    from llmcli.kernels.cuda.readable_graph_step import GraphStep

    # ROCm supports graphs too, but they have not been tested there.
    if model.device.type == "cuda" and torch.version.cuda is None:
        return _readable_step(model, reason)
    try:
        return GraphStep(model, reason)
    except NoKernelError as error:
        return _readable_step(model, f"{reason}, and no CUDA graph: {error}")


def _readable_step(model: Transformer, reason: str) -> FastStep:
    # Imported here: it needs torch, which `why_not_on_cpu` must not import.
    from llmcli.kernels.readable_step import ReadableStep

    return ReadableStep(model, reason)
