"""Hugging Face transformers as arms of the benchmark, in bfloat16: with default settings, and compiled."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from llmcli.bench.arms.protocol import TimedRun
from llmcli.bench.plan import BenchPlan
from llmcli.bench.shapes import SHAPES

# A step is compiled for one cache length; lengths are rounded up to a multiple of this, to compile less often.
_CACHE_STEP = 512
# Steps until it is compiled and captured, and its speed is constant.
_WARM_UP = 4


class Transformers:
    """A model loaded by transformers, with its default cache and attention, in eager mode.

    Transformers dequantizes GGUF weights while loading; a shape has random weights.
    """

    def __init__(self, plan: BenchPlan) -> None:
        torch.set_num_threads(plan.threads)
        self._model = _made(plan) if plan.shape is not None else _loaded(plan)
        self.cache_argument = cache_argument(self._model)
        self.how = f"bfloat16, {plan.device}, attention: {self._model.config._attn_implementation}"

    @torch.inference_mode()
    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `Runner`."""
        return self._generate(ids, tokens, None, self._model)

    def _generate(self, ids: Sequence[int], tokens: int, cache: Any, step: Callable[..., Any]) -> TimedRun:
        """Prefill with the model itself, decode with `step`."""
        started = time.perf_counter()
        token = torch.tensor([list(ids)], device=self._model.device)
        at: list[float] = []
        for number in range(tokens):
            forward = step if number else self._model
            seen = forward(input_ids=token, use_cache=True, logits_to_keep=1, **{self.cache_argument: cache})
            cache = getattr(seen, self.cache_argument)
            token = seen.logits[:, -1:].argmax(-1)
            # The time is taken when the token is on the host, which waits for a GPU.
            token[0, 0].item()
            at.append(time.perf_counter())
        return TimedRun(at[0] - started, at[-1] - at[0], len(ids))


class TransformersCompiled(Transformers):
    """Transformers with a static cache and `torch.compile`, as its `generate` uses them; compiling is not timed."""

    def __init__(self, plan: BenchPlan) -> None:
        super().__init__(plan)
        self.how += ", static cache, torch.compile"
        self._length = 0
        self._cache: Any = None

    # Not in inference mode, in which compiled code cannot mark addresses as static.
    @torch.no_grad()
    def run(self, ids: Sequence[int], tokens: int) -> TimedRun:
        """See `Runner`."""
        if tokens == 1:
            # Prefill is not compiled: it would be compiled again for each length.
            return self._generate(ids, tokens, None, self._model)
        length = -(-(len(ids) + tokens) // _CACHE_STEP) * _CACHE_STEP
        if length != self._length:
            torch.compiler.reset()
            self._length = length
            self._cache = transformers.StaticCache(config=self._model.config, max_cache_len=length)
            self._written(ids[:1], _WARM_UP)
        return self._written(ids, tokens)

    def _written(self, ids: Sequence[int], tokens: int) -> TimedRun:
        self._cache.reset()
        return self._generate(ids, tokens, self._cache, self._model.get_compiled_call(None))


def cache_argument(model: Any) -> str:
    """The name of the KV cache in a model's `forward` and in its output: `cache` from transformers 5.24 on."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _loaded(plan: BenchPlan) -> Any:
    path = Path(plan.model)
    where, options = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
    model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16, **options)
    return model.eval().to(plan.device)


def _made(plan: BenchPlan) -> Any:
    assert plan.shape is not None
    config = transformers.AutoConfig.for_model(**SHAPES[plan.shape])
    with torch.device(plan.device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
