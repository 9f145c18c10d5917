"""Generate only the thought of a reasoning model, before `--choices` compares answers."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.commands.generate.structured_output import no_answer_message
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.errors import LlmcliError
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.tokenizer import Tokenizer
from llmcli.views.reply.writer import ThoughtWriter


@dataclass(frozen=True)
class Thought:
    """A model's thought before its answer."""

    ids: tuple[int, ...] = ()
    """All tokens before the answer: the thought, its marks, and the newlines after it."""
    text: str = ""


def think(engine: Engine, tokenizer: Tokenizer, built: ChatPrompt, params: SamplingParams) -> Thought:
    """Generate a reply to `built` up to its answer, and show the thought on stderr; empty if the model does not think.

    Raises:
        LlmcliError: the reply ended inside the thought.
        KeyboardInterrupt: Ctrl-C ended it there.
    """
    apart = ThinkingApart(tokenizer, built.start)
    ids: list[int] = []
    thought = ""
    writer = ThoughtWriter()
    for event in map(apart, engine.stream(built.ids, params, probabilities=False, start=built.start)):
        if not isinstance(event, Step | Finish):
            continue
        thought += event.thinking
        writer.write(event.thinking)
        if event.text and not apart.awaits_answer:
            break
        if isinstance(event, Step):
            ids.append(event.id)
        elif apart.awaits_answer:
            if event.reason == "interrupted":
                raise KeyboardInterrupt
            raise LlmcliError(no_answer_message(event))
    writer.end()
    marked = bool(thought) or bool(tokenizer.decode(ids, skip_special=False).strip())
    return Thought(tuple(ids), thought) if marked else Thought()
