"""llama.cpp as an arm of the benchmark, through its C API: only the loop over tokens is in Python."""

from __future__ import annotations

import time
from collections.abc import Sequence

import llama_cpp

from llmcli.bench.arms.protocol import ArmError, TimedRun
from llmcli.bench.plan import BenchPlan

_ERROR_LEVEL = 4
_errors: list[bytes] = []
# Only errors are kept: printing all messages of loading would cost time.
_LISTENER = llama_cpp.llama_log_callback(lambda level, text, _: _errors.append(text) if level == _ERROR_LEVEL else None)


class LlamaCpp:
    """A model loaded by llama.cpp, with default settings except for threads and context."""

    def __init__(self, plan: BenchPlan) -> None:
        on_gpu = plan.device != "cpu"
        if on_gpu and not llama_cpp.llama_supports_gpu_offload():
            raise ArmError(f"This build of llama-cpp-python computes on the CPU only, not on {plan.device}.")
        _errors.clear()
        llama_cpp.llama_log_set(_LISTENER, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = -1 if on_gpu else 0
        self._model = llama_cpp.llama_model_load_from_file(plan.model.encode(), model_params)
        if not self._model:
            raise ArmError(f"llama.cpp could not load the model: {_reason()}.")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = plan.sizes.longest
        params.n_threads = params.n_threads_batch = plan.threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ArmError(f"llama.cpp could not make a context for the model: {_reason()}.")
        # Tokens per call; llama.cpp limits this to the context.
        self._batch: int = llama_cpp.llama_n_batch(self._context)
        self._greedy = llama_cpp.llama_sampler_init_greedy()
        self._default = _default_sampler()
        self.how = f"as stored, {plan.device}, {plan.threads} threads, its defaults otherwise"

    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `Runner`."""
        return self._timed(self._greedy, ids, tokens)

    def run_default(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `DefaultRunner`."""
        return self._timed(self._default, ids, tokens)

    def _timed(self, sampler: object, ids: Sequence[int], tokens: int) -> TimedRun:
        started = time.perf_counter()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        for start in range(0, len(ids), self._batch):
            self._read(ids[start : start + self._batch])
        at: list[float] = []
        while True:
            token: int = llama_cpp.llama_sampler_sample(sampler, self._context, -1)
            at.append(time.perf_counter())
            if len(at) == tokens:
                return TimedRun(at[0] - started, at[-1] - at[0], len(ids))
            self._read([token])

    def _read(self, ids: Sequence[int]) -> None:
        array = (llama_cpp.llama_token * len(ids))(*ids)
        code = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(ids)))
        if code:
            raise ArmError(f"llama.cpp could not compute: llama_decode answered {code}.")


def _default_sampler() -> object:
    """The default sampling filters of llama.cpp's programs and their values: `common_params_sampling`."""
    sampler = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for part in (
        llama_cpp.llama_sampler_init_top_k(40),
        llama_cpp.llama_sampler_init_top_p(0.95, 1),
        llama_cpp.llama_sampler_init_min_p(0.05, 1),
        llama_cpp.llama_sampler_init_temp(0.8),
        llama_cpp.llama_sampler_init_dist(1),
    ):
        llama_cpp.llama_sampler_chain_add(sampler, part)
    made: object = sampler
    return made


def _reason() -> str:
    return _errors[0].decode(errors="replace").strip().rstrip(".") if _errors else "it gave no reason"
