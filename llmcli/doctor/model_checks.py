"""Find faults and oddities in a model's files without reading weights.

Most faults of conversions show in the prompt: two BOS tokens, a reply that no token ends, control markers that are not
tokens. So the chat template renders a test conversation, which is then inspected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmcli.checkpoint.checkpoint import Checkpoint
from llmcli.checkpoint.load_packed import default_packing, packed_formats, planned_formats
from llmcli.checkpoint.memory_estimate import parameter_bytes
from llmcli.checkpoint.text_assets import TextParts
from llmcli.device import choose_device, choose_dtype, memory
from llmcli.doctor.finding import Finding
from llmcli.errors import LlmcliError, UsageError
from llmcli.kernels.select import why_no_kernel
from llmcli.model.meta_device import meta_model
from llmcli.sizes import size
from llmcli.text.chat.end_of_turn import TurnEnd, turn_end, written
from llmcli.text.chat.prompt import Message, build_chat
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.stop_tokens import NO_STOP_TOKEN
from llmcli.text.tokenizer import Tokenizer

# Words that no template contains.
_SYSTEM, _USER, _REPLY, _AGAIN = "zyxwv system", "zyxwv question", "zyxwv reply", "zyxwv again"
_MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT)\]|<｜[^｜<>]{1,40}｜>")


def check_model(checkpoint: Checkpoint, *, device: str = "auto", dtype: str = "auto") -> list[Finding]:
    """Check everything about a model except its weights.

    Raises:
        LlmcliError: the files cannot be used at all.
    """
    parts = checkpoint.read_text_parts()
    return [
        *_sizes(checkpoint, parts.tokenizer),
        *_memory(checkpoint, device, dtype),
        *_stops(parts),
        *_templates(parts),
        *_recommendations(parts),
        *(Finding("note", "files", note) for note in (*checkpoint.notes, *parts.notes) if note != NO_STOP_TOKEN),
    ]


def _sizes(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Iterator[Finding]:
    tokens, rows = tokenizer.vocab_size, checkpoint.config.vocab_size
    if tokens > rows:
        message = f"it has {tokens} tokens, but the model has embeddings for {rows}: it cannot be run"
        yield Finding("problem", "tokenizer", message)
    else:
        padding = f", and {rows - tokens} rows of the embedding are padding" if rows > tokens else ""
        yield Finding("good", "tokenizer", f"{tokens} tokens, each with an embedding{padding}")


def _memory(checkpoint: Checkpoint, device: str, dtype: str) -> Iterator[Finding]:
    where = choose_device(device)
    kind = choose_dtype(dtype, where, checkpoint.stored_dtype())
    unasked = dtype == "auto" and why_no_kernel(checkpoint.config, where) is None
    packing = default_packing(checkpoint, where) if unasked else None
    model = meta_model(checkpoint.config)
    planned = planned_formats(model, packing, checkpoint, where)
    needed = sum(parameter_bytes(model, planned, kind).values())
    _, free = memory(where)
    kept = "the bits they are stored in" if packed_formats(planned) else str(kind).removeprefix("torch.")
    words = f"the weights take {size(needed)} in {kept} on {where}"
    if free is not None and needed > free:
        yield Finding("problem", "memory", f"{words}, of which {size(free)} are free")
    else:
        yield Finding("good", "memory", words)


def _stops(parts: TextParts) -> Iterator[Finding]:
    template = parts.template()
    end = TurnEnd() if template is None else turn_end(parts.tokenizer, template)
    stop_ids = end.stop_ids(parts.stop_ids)
    if not (stop_ids or end.texts):
        message = "no file names a token that ends a reply: replies end only when the context is full"
        yield Finding("problem", "stop tokens", message)
    for token, places in stop_ids.items():
        yield Finding("good", "stop tokens", f"{parts.tokenizer.piece(token)} ({token}), from {', '.join(places)}")


def _recommendations(parts: TextParts) -> Iterator[Finding]:
    if parts.generation_defaults:
        settings = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in parts.generation_defaults.items())
        yield Finding("good", "sampling", f"the model's files recommend {settings}")
    else:
        yield Finding("note", "sampling", "no generation config recommends any settings; llm's defaults are used")


def _templates(parts: TextParts) -> Iterator[Finding]:
    if parts.template_fault is not None:
        yield Finding("problem", "chat template", str(parts.template_fault))
    elif not parts.templates:
        yield Finding("note", "chat template", "there is none: the model can continue texts, but not chat")
    for name in parts.templates:
        subject = "chat template" if name == "default" else f"chat template {name}"
        try:
            template = parts.template(name)
            assert template is not None
            yield from _template(subject, template, parts)
        except LlmcliError as error:
            yield Finding("problem", subject, str(error))


def _template(subject: str, template: ChatTemplate, parts: TextParts) -> Iterator[Finding]:
    tokenizer = parts.tokenizer
    question = [("user", _USER)]
    alone = written(template, question)
    if _USER not in alone:
        yield Finding("problem", subject, "it leaves out the user's message")
        return
    if alone == written(template, question, add_generation_prompt=False):
        yield Finding("note", subject, "it does not mark where the reply begins, so the model may not answer")
    yield from _system(subject, template)
    ids = build_chat(tokenizer, template, [Message("user", _USER)]).ids
    yield from _bos_tokens(subject, tokenizer, ids)
    yield from _markers(subject, tokenizer, alone)
    yield from _end_of_reply(subject, template, parts)
    yield Finding("good", subject, f"a short question is {len(ids)} tokens with all that the template adds")


def _system(subject: str, template: ChatTemplate) -> Iterator[Finding]:
    before = "; it is put before the user's message"
    try:
        text = written(template, [("system", _SYSTEM), ("user", _USER)])
    except UsageError as error:
        yield Finding("note", subject, f"it takes no system prompt ({error}){before}")
        return
    if _SYSTEM not in text:
        yield Finding("note", subject, f"it leaves out the system prompt{before}")
    else:
        yield Finding("good", subject, "it takes a system prompt")


def _bos_tokens(subject: str, tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[Finding]:
    """Check the number of BOS tokens: more than one confuses a model, and so may a missing one."""
    bos = tokenizer.bos_id
    raw = tokenizer.encode("a")
    wanted = bos is not None and raw[:1] == [bos]
    count = 0 if bos is None else sum(1 for token in ids if token == bos)
    piece = "" if bos is None else tokenizer.piece(bos)
    # Some models begin every message with the BOS token.
    leading = 0 if bos is None else next((at for at, token in enumerate(ids) if token != bos), len(ids))
    if leading > 1:
        yield Finding("problem", subject, f"{leading} BOS tokens ({piece}) in a row at the start of the prompt")
    elif count == 1:
        yield Finding("good", subject, f"one BOS token ({piece}) in the prompt")
    elif count > 1:
        yield Finding("note", subject, f"{count} times {piece} in the prompt: it is both BOS and a marker of messages")
    elif wanted:
        message = f"it writes no BOS token ({piece}), although the tokenizer puts one before any other text"
        yield Finding("problem", subject, message)
    else:
        yield Finding("good", subject, "no BOS token, as in any other text of this tokenizer")


def _markers(subject: str, tokenizer: Tokenizer, text: str) -> Iterator[Finding]:
    unknown = [marker for marker in dict.fromkeys(_MARKER.findall(text)) if tokenizer.token_to_id(marker) is None]
    if unknown:
        yield Finding("problem", subject, f"it writes {', '.join(unknown)}, for which the tokenizer has no token")


def _end_of_reply(subject: str, template: ChatTemplate, parts: TextParts) -> Iterator[Finding]:
    """Check that the token that the template writes after a reply is one that ends replies."""
    try:
        text = written(template, [("user", _USER), ("assistant", _REPLY), ("user", _AGAIN)])
    except LlmcliError as error:
        yield Finding("problem", subject, f"it fails on a second question: {error}")
        return
    if _REPLY not in text:
        yield Finding("problem", subject, "it leaves out earlier replies")
        return
    end = turn_end(parts.tokenizer, template)
    for token in end.ids:
        if token not in parts.stop_ids:
            piece = parts.tokenizer.piece(token)
            message = f"it ends replies with {piece} ({token}), which no file declares; replies end there"
            yield Finding("note", subject, message)
    if end.texts:
        yield Finding(
            "note", subject, f"it ends replies with {end.texts[-1]!r}, which is not a token; replies end there"
        )
