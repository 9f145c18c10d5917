"""The form that a reply must have, with the model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from llmcli.engine.context_limit import check_prompt
from llmcli.engine.guided.answer_form import form_start
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.guided.grammar import Rule
from llmcli.engine.sampling.params import SamplingParams
from llmcli.loaded_model import LoadedModel
from llmcli.text.reasoning import ReplyStart


def constrained(
    rule: Rule | None,
    loaded: LoadedModel,
    start: ReplyStart,
    *,
    room: int,
    is_chat: bool,
    no_thinking: bool = False,
) -> tuple[Constraint | None, ReplyStart]:
    """The constraint of a reply of at most `room` tokens, and where the reply begins, which is `start` without a form.

    Raises:
        LlmcliError: no reply of this form fits.
    """
    if rule is None:
        return None, start
    stops = loaded.stop_ids if is_chat else loaded.declared_stop_ids
    constraint = Constraint(rule, loaded.tokenizer, stops.keys(), prefill=start.prefill)
    constraint.begin(room)
    return constraint, form_start(constraint, loaded.tokenizer, start, no_thinking=no_thinking)


def room_for(prompt: Sequence[int], params: SamplingParams, context_length: int) -> int:
    """The most tokens of a reply to `prompt`.

    Raises:
        PromptTooLongError: the prompt leaves no room.
    """
    check_prompt(prompt, context_length)
    room = context_length - len(prompt)
    return room if params.max_tokens is None else min(room, params.max_tokens)
