"""Which fast path runs a model on a device, and why none does where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcli.device import Device
from llmcli.kernels.base import DeviceStep, NoKernelError
from llmcli.model.config import ModelConfig

if TYPE_CHECKING:
    from llmcli.model import Transformer


def why_no_kernel(config: ModelConfig | None, device: Device) -> str | None:
    """Why no kernel can run such a model there, without a full stop; None: one can.

    Without a `config`: why none can run any. On a CPU the kernel is compiled if that was not done before, which takes
    seconds.
    """
    if device.type == "cuda":
        import torch

        from llmcli.kernels.cuda.support import unsupported, why_not_here

        assert isinstance(device, torch.device)
        return (unsupported(config) if config is not None else None) or why_not_here(device)
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
    return None


def cuda_step(model: Transformer, reason: str | None) -> tuple[DeviceStep | None, str]:
    """The fastest step of a model on a CUDA device, or why there is none; `reason` says why it cannot be the kernels.

    First the kernels, then a graph of the readable model's step.
    """
    if not reason:
        try:
            from llmcli.kernels.cuda.step import CudaStep

            return CudaStep(model, slower_step), ""
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
