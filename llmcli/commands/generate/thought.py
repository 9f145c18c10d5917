"""A model's thought by itself, before it is asked to choose among answers."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.commands.generate.structured_output import never_began
from llmcli.engine import Engine, Finish, SamplingParams, Step
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.errors import LlmcliError
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.tokenizer import Tokenizer
from llmcli.views.reply.writer import ThoughtWriter


@dataclass(frozen=True)
class Thought:
    """What a model thought before its answer."""

    ids: tuple[int, ...] = ()
    """The tokens up to where the answer begins: marks, and the line ends that the model put after the thought."""
    text: str = ""


def think(engine: Engine, tokenizer: Tokenizer, built: ChatPrompt, params: SamplingParams) -> Thought:
    """Generate a reply to `built` up to where its answer begins, and show the thought on stderr; empty without one.

    Raises:
        LlmcliError: the reply ended before that.
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
            raise LlmcliError(never_began(event))
    writer.end()
    marked = bool(thought) or bool(tokenizer.decode(ids, skip_special=False).strip())
    return Thought(tuple(ids), thought) if marked else Thought()
