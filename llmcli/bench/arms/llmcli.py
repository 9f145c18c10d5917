"""`llmcli` as an arm of the benchmark: the engine that every command uses."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from llmcli.api import choose_packing, load_checkpoint, with_kv_cache
from llmcli.bench.arms.protocol import TimedRun
from llmcli.bench.plan import BenchPlan
from llmcli.bench.random_model import random_model
from llmcli.bench.shapes import shape_config
from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.device import choose_dtype
from llmcli.engine import Engine, Finish, Prefill, SamplingParams, Step
from llmcli.engine.sampling.recommendations import recommended_params
from llmcli.loaded_model import LoadedModel
from llmcli.startup.garbage_collection import gc_disabled


def start_command(plan: BenchPlan) -> tuple[str, ...]:
    """The command for generating one token; the environment sets the threads."""
    options: tuple[str, ...] = ("--model", plan.model, "--device", plan.device, "--dtype", plan.dtype)
    if plan.quantize is not None:
        options = (*options, "--quantize", plan.quantize)
    options = (*options, "--kv-cache", plan.kv_cache, "--tp", str(plan.tensor_parallel))
    return (sys.executable, "-m", "llmcli", "generate", "hi", "-n", "1", "-t", "0", "--quiet", *options)


class LlmcliArm:
    """A loaded model and its engine."""

    def __init__(self, plan: BenchPlan, checkpoint: Checkpoint | None) -> None:
        """Load the `checkpoint`; None: make random weights in the plan's shape."""
        torch.set_num_threads(plan.threads)
        loaded = _made(plan) if checkpoint is None else _loaded(plan, checkpoint)
        # Without stop tokens, so that every reply has the requested length.
        endless = replace(loaded, declared_stop_ids={})
        self._engine = endless.engine(chat=False)
        self._loaded = endless
        self._default_engine: Engine | None = None
        self.how = ""

    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `Runner`."""
        return self._timed(self._engine, ids, SamplingParams(temperature=0, max_tokens=tokens))

    def run_default(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `DefaultRunner`: sampling as recommended, with lookup where that is the default."""
        # Made when first needed, because it allocates another KV cache.
        if self._default_engine is None:
            self._default_engine = self._loaded.engine(chat=False, lookup=None)
        params = recommended_params(self._loaded.generation_defaults, {"seed": 1, "max_tokens": tokens})
        return self._timed(self._default_engine, ids, params)

    def _timed(self, engine: Engine, ids: Sequence[int], params: SamplingParams) -> TimedRun:
        at: list[float] = []
        cached = 0
        started = time.perf_counter()
        for event in engine.stream(ids, params, probabilities=False):
            if isinstance(event, Step):
                at.append(time.perf_counter())
            elif isinstance(event, Prefill):
                cached = event.cached
            elif isinstance(event, Finish):
                self.how = event.stats.path
        return TimedRun(at[0] - started, at[-1] - at[0], len(ids) - cached)


def _loaded(plan: BenchPlan, checkpoint: Checkpoint) -> LoadedModel:
    with gc_disabled():
        return load_checkpoint(
            checkpoint,
            device=plan.device,
            dtype=plan.dtype,
            quantize=plan.quantize,
            kv_cache=plan.kv_cache,
            tensor_parallel=plan.tensor_parallel,
        )


def _made(plan: BenchPlan) -> LoadedModel:
    assert plan.shape is not None
    device = torch.device(plan.device)
    dtype = choose_dtype(plan.dtype, device, torch.bfloat16)
    config = with_kv_cache(shape_config(plan.shape), plan.kv_cache)
    return random_model(plan.shape, config, device, dtype, choose_packing(plan.quantize, device))
