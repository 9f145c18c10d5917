"""Which token source generates a reply."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llmcli.engine.decoders.gpu_pipelined import PipelinedDecoder
from llmcli.engine.decoders.multi_step import MULTI_STEP_S, MultiStepDecoder
from llmcli.engine.decoders.single_step import SingleStepDecoder
from llmcli.engine.decoders.token_source import TokenSource
from llmcli.engine.guided.answer_form import AnswerForm
from llmcli.engine.interrupt import Interruption
from llmcli.engine.prefix_cache import PrefixCache
from llmcli.engine.sampling.sampler import Sampler
from llmcli.engine.speculative.decoder import SpeculationState, SpeculativeDecoder


@dataclass(frozen=True)
class SourceRequest:
    """What a reply needs from its token source."""

    sampler: Sampler
    interruption: Interruption
    longest: int
    """The most tokens that the text can have."""
    stop_ids: Collection[int]
    probabilities: bool
    form: AnswerForm | None
    speculation: SpeculationState | None
    multi_step_s: float = MULTI_STEP_S


def choose_source(request: SourceRequest, prefix_cache: PrefixCache) -> TokenSource:
    """The fastest source that can generate the reply, whose text `prefix_cache` has begun.

    - `SpeculativeDecoder` if tokens are proposed, unless the model has forward hooks, which see one token a pass;
    - `SingleStepDecoder` if logits are wanted, for probabilities or a constraint;
    - `PipelinedDecoder` or `MultiStepDecoder` if the step chooses tokens by the reply's sampling filters;
    - `SingleStepDecoder` otherwise.
    """
    sampler, interruption, longest = request.sampler, request.interruption, request.longest
    single = SingleStepDecoder(
        prefix_cache, sampler, interruption,
        longest=longest, probabilities=request.probabilities, form=request.form,
    )  # fmt: skip
    wants_logits = request.probabilities or request.form is not None
    multi_step: MultiStepDecoder | None = None
    if not wants_logits and prefix_cache.can_multi_step(sampler.params):
        multi_step = MultiStepDecoder(
            single, prefix_cache, sampler, interruption,
            longest=longest, stop_ids=request.stop_ids, multi_step_s=request.multi_step_s,
        )  # fmt: skip
    if request.speculation is not None and not prefix_cache.has_hooks:
        return SpeculativeDecoder(
            single, prefix_cache, request.speculation, sampler, interruption,
            longest=longest, stop_ids=request.stop_ids,
            constrained=request.form is not None, multi_step=multi_step,
        )  # fmt: skip
    if not wants_logits and prefix_cache.can_pipeline(sampler.params):
        return PipelinedDecoder(single, prefix_cache, sampler, interruption, longest=longest)
    return multi_step or single
