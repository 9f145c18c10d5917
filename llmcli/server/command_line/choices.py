"""The most probable of several answers to a prompt, after the thought of a model that thinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmcli.inspection.evaluation.answer_choices import AnswerChoices
from llmcli.inspection.evaluation.multiple_choice import choose
from llmcli.loaded_model import LoadedModel
from llmcli.server.command_line.reply import CommandReply
from llmcli.text.reply_start import opening_tokens
from llmcli.text.trusted_encoding import TextSegment


def may_think(loaded: LoadedModel, reply: CommandReply, *, no_thinking: bool) -> bool:
    """Whether the model may think before its answer."""
    state = reply.built.start.state
    if loaded.tokenizer.thinking.awaits_answer(state):
        return True
    return state == "begin" and not no_thinking and bool(opening_tokens(loaded.tokenizer))


def compare_answers(
    loaded: LoadedModel,
    reply: CommandReply,
    answers: Sequence[str],
    thought: Sequence[int],
    *,
    context_length: int | None,
    threads: int | None = None,
    readable: bool = False,
    progress: Callable[[int, int], None],
) -> AnswerChoices:
    """The probability of each of `answers` after the prompt of `reply` and the tokens of a `thought`.

    The other arguments and the errors are those of `multiple_choice.choose`.
    """
    prompt, built, tokenizer = reply.prompt, reply.built, loaded.tokenizer
    before = [*built.ids, *thought]

    def with_answer(answer: str) -> list[int]:
        if not thought:
            return prompt.built(built.start.prefill + answer).ids
        return before + tokenizer.encode_segments([TextSegment(answer, trusted=False)], continuation=True)

    return choose(
        loaded,
        before,
        {answer: with_answer(answer) for answer in answers},
        whole=prompt.template is not None and bool(loaded.stop_ids),
        context_length=context_length,
        threads=threads,
        readable=readable,
        progress=progress,
    )
