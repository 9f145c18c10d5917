"""`python -m llmcli.bench.arms.worker`: the process that measures one arm.

The plan is the first line of standard input, as JSON; answers are lines of JSON on standard output. The caller keeps
standard input open while it waits for answers: once it is closed, the process ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.bench.plan import BenchPlan, passes
from llmcli.bench.results import MACHINE, OURS
from llmcli.errors import LlmcliError, OutOfMemoryError
from llmcli.library_output import silence_libraries
from llmcli.startup.openmp import set_wait_policy

if TYPE_CHECKING:
    from llmcli.bench.arms.protocol import Runner

_LONGEST_MESSAGE = 300


def main() -> int:
    """Run the plan on standard input; the exit code is 1 if the arm failed, after a line with the error."""
    silence_libraries()
    send = _answers()
    plan = BenchPlan.from_json(sys.stdin.buffer.readline().decode())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _run(plan, send)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        send({"error": _message(error)})
        return 1
    return 0


def _answers() -> Callable[[dict[str, object]], None]:
    """A function that writes one answer; all other output, including that of C code, goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)

    def send(answer: dict[str, object]) -> None:
        os.write(answers, json.dumps(answer).encode() + b"\n")

    return send


def _end_with_stdin() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(130)


def _run(plan: BenchPlan, send: Callable[[dict[str, object]], None]) -> None:
    if plan.arm == MACHINE:
        _measure_machine(plan, send)
        return
    runner = _runner(plan)
    if plan.start_only:
        runner.run(plan.ids[:1], 1)
        send({"first_token": True})
    else:
        _measure(runner, plan, send)


def _runner(plan: BenchPlan) -> Runner:
    if plan.arm == OURS:
        # As in a command: idle threads sleep, NumPy is not imported, and files are opened before torch is imported.
        set_wait_policy(os.environ)
        sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]
        checkpoint = None
        if plan.shape is None:
            from llmcli.hub.resolve import resolve
            from llmcli.startup.open_ahead import open_ahead

            checkpoint = open_ahead(resolve(plan.model), weights=True)
        from llmcli.bench.arms.llmcli import LlmcliArm

        return LlmcliArm(plan, checkpoint)
    if plan.arm == "llama.cpp":
        from llmcli.bench.arms.llama_cpp import LlamaCpp

        return LlamaCpp(plan)
    from llmcli.bench.arms.hf_transformers import Transformers, TransformersCompiled

    return Transformers(plan) if plan.arm == "transformers" else TransformersCompiled(plan)


def _measure(runner: Runner, plan: BenchPlan, send: Callable[[dict[str, object]], None]) -> None:
    from llmcli.bench.arms.protocol import DefaultRunner
    from llmcli.bench.hardware.memory import peak_resident_bytes

    memory = iter(("peak_memory_short_bytes", "peak_memory_bytes"))
    for start, step in enumerate(passes(plan.sizes)):
        if step.measure == "memory":
            send({"measure": next(memory), "size": None, "value": peak_resident_bytes()})
            continue
        send({"doing": step.measure, "size": step.size})
        ids = plan.ids[start : start + step.prompt]
        if step.measure == "default decode":
            if isinstance(runner, DefaultRunner):
                run = runner.run_default(ids, step.tokens)
                speed = (step.tokens - 1) / run.rest_s
                send({"measure": "default_decode_tokens_per_s", "size": step.size, "value": speed})
            continue
        run = runner.run(ids, step.tokens)
        if step.measure == "prefill":
            send({"measure": "prefill_tokens_per_s", "size": step.size, "value": run.read / run.first_s})
        elif step.measure == "decode":
            send({"measure": "decode_tokens_per_s", "size": step.size, "value": (step.tokens - 1) / run.rest_s})
    torch = sys.modules.get("torch")
    if torch is not None and torch.device(plan.device).type == "cuda" and plan.arm != "llama.cpp":
        send({"measure": "device_memory_bytes", "size": None, "value": torch.cuda.max_memory_allocated(plan.device)})
    send({"how": runner.how})


def _measure_machine(plan: BenchPlan, send: Callable[[dict[str, object]], None]) -> None:
    import torch

    from llmcli.bench.hardware.bandwidth import bandwidth
    from llmcli.bench.hardware.memory import peak_resident_bytes

    send({"measure": "import_torch_bytes", "size": None, "value": peak_resident_bytes()})
    speed = bandwidth(torch.device(plan.device), plan.threads)
    send({"measure": "bandwidth_bytes_per_s", "size": None, "value": speed})
    if plan.device != "cpu" and plan.shape is None and plan.quantize is None:
        _measure_loading(plan, send)


def _measure_loading(plan: BenchPlan, send: Callable[[dict[str, object]], None]) -> None:
    import torch

    from llmcli.bench.arms.weight_loading import loading_speeds, safetensors_files
    from llmcli.checkpoint.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(Path(plan.model))
    if not safetensors_files(checkpoint):
        return
    # A model that fits in another type may not fit in the stored one.
    with suppress(OutOfMemoryError):
        ours, theirs = loading_speeds(checkpoint, torch.device(plan.device))
        send({"measure": "load_bytes_per_s", "size": None, "value": ours})
        send({"measure": "safe_open_bytes_per_s", "size": None, "value": theirs})


def _message(error: Exception) -> str:
    """A one-line error message; unexpected errors are preceded by their type."""
    from llmcli.bench.arms.protocol import ArmError

    text = " ".join(str(error).split())[:_LONGEST_MESSAGE]
    return text if isinstance(error, ArmError | LlmcliError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
