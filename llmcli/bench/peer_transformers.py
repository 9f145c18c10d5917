"""Hugging Face transformers as an arm of the benchmark, in bfloat16, with its own cache and attention."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from llmcli.bench.plan import Plan
from llmcli.bench.runner import Run


class Transformers:
    """A model that transformers loaded. GGUF weights are decoded by transformers while loading."""

    def __init__(self, plan: Plan) -> None:
        torch.set_num_threads(plan.threads)
        path = Path(plan.model)
        where, options = (path, {}) if path.is_dir() else (path.parent, {"gguf_file": path.name})
        model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16, **options)
        self._model = model.eval().to(plan.device)
        self.how = f"bfloat16, {plan.device}, attention: {model.config._attn_implementation}"

    @torch.inference_mode()
    def run(self, ids: Sequence[int], tokens: int) -> Run:
        """See `Runner`."""
        started = time.perf_counter()
        step = torch.tensor([list(ids)], device=self._model.device)
        at: list[float] = []
        cache = None
        for _ in range(tokens):
            seen = self._model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = seen.past_key_values
            step = seen.logits[:, -1:].argmax(-1)
            # A token counts once Python has it, which also waits for a GPU.
            step[0, 0].item()
            at.append(time.perf_counter())
        return Run(at[0] - started, at[-1] - at[0], len(ids))
