"""Report whether the kernel of a device has been found to compute what the readable model computes."""

from __future__ import annotations

from llmcli.device import find_device
from llmcli.doctor.finding import Finding
from llmcli.kernels.trust.first_use import kernel_of
from llmcli.kernels.trust.verdict import ASK, kept_verdict


def kernel_findings(device: str = "auto") -> list[Finding]:
    """The stored verdict on the kernel; compares nothing itself. Empty if no kernel can run.

    Raises:
        UsageError: there is no such device.
    """
    kernel = kernel_of(find_device(device))
    if kernel is None:
        return []
    verdict = kept_verdict(kernel)
    if verdict is None:
        return [Finding("good", kernel.name, "not compared with the readable model yet; the first reply does that")]
    if verdict.fault:
        words = (
            f"did not pass the check on this machine, so the readable model makes the replies: {verdict.fault}. "
            f"With {ASK}=1 in the environment the next reply begins with another check"
        )
        return [Finding("problem", kernel.name, words)]
    found = [Finding("good", kernel.name, "matched the readable model when it was checked on this machine")]
    if verdict.failure:
        words = f"failed with a model, and the readable model made the reply: {verdict.failure}"
        found.append(Finding("note", kernel.name, words))
    return found
