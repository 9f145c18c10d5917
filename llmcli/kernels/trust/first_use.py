"""Decide whether to trust a device's kernel: by a kept verdict or, the first time, by a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from llmcli.device import Device, is_out_of_memory
from llmcli.kernels.base import NoKernelError
from llmcli.kernels.trust.identity import Kernel, cpu_kernel, cuda_kernel
from llmcli.kernels.trust.verdict import Verdict, forget_verdicts, keep_verdict, kept_verdict

if TYPE_CHECKING:
    import torch

    from llmcli.model import Transformer

Tell: TypeAlias = Callable[[str], None]
"""Shows the user a line."""

_INSTEAD = "so the readable model makes the replies, more slowly; llm doctor says more."

_shown: set[tuple[Kernel, str]] = set()


def kernel_of(device: Device) -> Kernel | None:
    """The kernel for a device; None if there is none, or it cannot run."""
    try:
        if device.type == "cuda":
            import torch

            from llmcli.kernels.cuda.support import why_not_here

            assert isinstance(device, torch.device)
            return None if why_not_here(device) else cuda_kernel(device)
        return cpu_kernel() if device.type == "cpu" else None
    except NoKernelError:
        return None


def why_distrusted(device: Device) -> str | None:
    """The reason not to use a device's kernel, from an earlier verdict; this does not start a comparison."""
    kernel = kernel_of(device)
    return None if kernel is None else _reason(kernel, kept_verdict(kernel))


def check_kernel(device: torch.device, tell: Tell) -> str | None:
    """The reason not to use a device's kernel; None: it passed, or there is no kernel.

    A kernel without a verdict is compared with the readable model, which takes half a second on a CPU and some seconds
    on a GPU, where kernels are compiled. A failure is shown with `tell`, once in a process.
    """
    kernel = kernel_of(device)
    if kernel is None:
        return None
    verdict = kept_verdict(kernel) or _checked(kernel, device)
    if verdict.fault:
        _tell_once(
            tell,
            kernel,
            f"did not pass the check on this machine ({verdict.fault}), {_INSTEAD}",
        )
    return _reason(kernel, verdict)


def note_failure(device: torch.device, error: str, tell: Tell) -> None:
    """Record that a device's kernel raised `error` in the first pass of a model, and show it with `tell`."""
    kernel = kernel_of(device)
    if kernel is None:
        return
    keep_verdict(kernel, Verdict(failure=error))
    _tell_once(
        tell,
        kernel,
        f"failed with this model ({error}), {_INSTEAD}",
    )


def forget() -> None:
    """Drop all verdicts and shown messages of this process; for tests."""
    forget_verdicts()
    _shown.clear()


def _checked(kernel: Kernel, device: torch.device) -> Verdict:
    """Compare the kernel now and keep the verdict, unless the kernel cannot run at all."""
    try:
        fault = _compare_on_gpu(device) if kernel.kind == "cuda" else _compare_on_cpu()
    except (NoKernelError, ImportError):
        # The kernel cannot run; making its step will report that.
        return Verdict()
    except Exception as error:
        # Compilers and drivers raise errors of any type. A lack of memory may be over the next time.
        if is_out_of_memory(error):
            return Verdict()
        from llmcli.kernels.cuda.support import first_line

        fault = f"error: {first_line(error)}"
    verdict = Verdict(fault)
    keep_verdict(kernel, verdict)
    return verdict


def _compare_on_cpu() -> str:
    import torch

    from llmcli.kernels.cpu.step import CpuStep
    from llmcli.kernels.cpu.threads import default_threads
    from llmcli.kernels.trust.comparison import CPU_CASES, fault_of

    # Two threads suffice to test their synchronization; starting more would take longer than computing tiny models.
    threads = min(2, default_threads())
    return fault_of(CPU_CASES, lambda model: CpuStep(model, threads=threads), torch.device("cpu"))


def _compare_on_gpu(device: torch.device) -> str:
    from llmcli.kernels.cuda.step import CudaStep
    from llmcli.kernels.trust.comparison import CUDA_CASES, fault_of

    return fault_of(CUDA_CASES, lambda model: CudaStep(model, _refuse), device)


def _refuse(_model: Transformer, reason: str) -> NoReturn:
    """Raise instead of falling back to a slower step: only the kernels are checked."""
    raise RuntimeError(reason)


def _reason(kernel: Kernel, verdict: Verdict | None) -> str | None:
    if verdict is None or not verdict.fault:
        return None
    return f"{kernel.name} did not pass the check on this machine: {verdict.fault}"


def _tell_once(tell: Tell, kernel: Kernel, what: str) -> None:
    if (kernel, what) not in _shown:
        _shown.add((kernel, what))
        tell(f"{kernel.name[0].upper()}{kernel.name[1:]} {what}")
