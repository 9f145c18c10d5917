"""What a command can ask for after a reply: the attention of its tokens, and the record of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.file_hashes import file_hashes
from llmcli.engine import Finish, Step
from llmcli.inspection.attention.reply import ReplyAttention
from llmcli.inspection.core.text_spans import Spans
from llmcli.loaded_model import LoadedModel
from llmcli.replay.run_record import as_json, recorded
from llmcli.server.command_line.reply import CommandReply
from llmcli.server.wire import GenerateRequest, ReplyBegin


def reply_attention(
    loaded: LoadedModel, reply: CommandReply, request: GenerateRequest, steps: Sequence[Step]
) -> ReplyAttention:
    """The pass that computes the attention of a reply, summed as `request.attention_by` says."""
    return ReplyAttention(
        loaded,
        reply.ids,
        [step.id for step in steps],
        spans=Spans(request.attention_by or "token", loaded.tokenizer, reply.prompt.messages),
        logprobs=any(step.logprob is not None for step in steps),
    )


def run_record(
    loaded: LoadedModel,
    checkpoint: Checkpoint,
    reply: CommandReply,
    begin: ReplyBegin,
    steps: Sequence[Step],
    finish: Finish,
    *,
    text: str,
    progress: Callable[[int, int], None],
) -> Mapping[str, object]:
    """The record of a run, as `llmcli.replay.run_record` describes it.

    `text` is the prompt as the user wrote it. `progress` is called with the bytes of the model's files that have been
    hashed, and all; never if the hashes are cached.
    """
    run = recorded(
        loaded,
        reply.params,
        file_hashes(checkpoint, progress),
        context_length=begin.context_length,
        prompt=text,
        prompt_ids=reply.ids,
        start=reply.built.start,
        steps=steps,
        text=reply.text,
        finish=finish,
    )
    return as_json(run)
