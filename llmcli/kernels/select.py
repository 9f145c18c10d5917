"""Which fast path runs a model on a device, and why none does where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmcli.device import Device
from llmcli.kernels.base import DeviceStep, FastStep, NoKernelError
from llmcli.kernels.trust.first_use import Tell, check_kernel, note_failure, why_distrusted
from llmcli.model.config import ModelConfig

if TYPE_CHECKING:
    from llmcli.model import Transformer


def fast_step(
    model: Transformer, reason: str, *, threads: int | None = None, tell: Tell
) -> tuple[FastStep | None, str]:
    """The fastest step of a model, or why the readable model is to run as it is; `reason` says why no kernel can.

    A kernel that has never run on this machine is first compared with the readable model, and one that raises an error
    at its first pass is given up; `tell` hears of both. `threads` is for the CPU kernel.
    """
    device = model.device
    # What is known to fail is told of again in each process.
    unknown = not reason or reason == why_distrusted(device)
    if device.type == "cuda":
        reason = (check_kernel(device, tell) or "") if unknown else reason
        return cuda_step(model, reason, lambda error: note_failure(device, error, tell))
    if not unknown:
        return None, reason
    from llmcli.kernels.cpu.step import CpuStep
    from llmcli.kernels.trust.guarded_step import GuardedStep

    try:
        step = CpuStep(model, threads=threads)
    except NoKernelError as error:
        return None, str(error)
    if fault := check_kernel(device, tell):
        return None, fault
    return GuardedStep(step, model, lambda error: note_failure(device, error, tell)), ""


def why_no_kernel(config: ModelConfig | None, device: Device) -> str | None:
    """Why no kernel can run such a model there, without a full stop; None: one can.

    Without a `config`: why none can run any. On a CPU the kernel is compiled if that was not done before, which takes
    seconds. A kernel that failed its check on this machine counts as none; no check is made here.
    """
    if device.type == "cuda":
        import torch

        from llmcli.kernels.cuda.support import unsupported, why_not_here

        assert isinstance(device, torch.device)
        return (unsupported(config) if config is not None else None) or why_not_here(device) or why_distrusted(device)
    return why_not_on_cpu(config, device)


def why_not_on_cpu(config: ModelConfig | None, device: Device) -> str | None:
    """Why the CPU kernel cannot run such a model there, without a full stop; None: it can, and is compiled.

    Without a `config`: why it can run none.

    Compiles the kernel if that was not done before, which takes seconds.
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


def cuda_step(
    model: Transformer, reason: str | None, failed: Callable[[str], None] | None = None
) -> tuple[DeviceStep | None, str]:
    """The fastest step of a model on a CUDA device, or why there is none; `reason` says why it cannot be the kernels.

    First the kernels, then a graph of the readable model's step; `failed` hears why the kernels turn out not to run.
    """

    def fallback(model: Transformer, reason: str) -> tuple[DeviceStep | None, str]:
        if failed is not None:
            failed(reason)
        return slower_step(model, reason)

    if not reason:
        try:
            from llmcli.kernels.cuda.step import CudaStep

            return CudaStep(model, fallback), ""
        except NoKernelError as error:
            reason = str(error)
        except ImportError as error:
            # A library that it needs is not there, or of another version.
            from llmcli.kernels.cuda.support import first_line

            reason = f"Triton cannot be imported: {first_line(error)}"
    return slower_step(model, reason)


def slower_step(model: Transformer, reason: str) -> tuple[DeviceStep | None, str]:
    """A graph of the readable model's step where, for some `reason`, the kernels cannot run; or why there is none."""
    import torch

    from llmcli.kernels.cuda.readable_graph_step import GraphStep

    # Those of other makers have graphs too, but nobody has seen whether they give the same there.
    if model.device.type == "cuda" and torch.version.cuda is None:
        return None, reason
    try:
        return GraphStep(model, reason), ""
    except NoKernelError as error:
        return None, f"{reason}, and no CUDA graph: {error}"
