"""Generate only the thought of a reasoning model, before `--choices` compares answers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.commands.generate.structured_output import no_answer_message
from llmcli.engine import Finish, Step
from llmcli.errors import LlmcliError
from llmcli.views.reply.writer import ThoughtWriter

if TYPE_CHECKING:
    from llmcli.commands.generate.choices.source import ThinkingReply


@dataclass(frozen=True)
class Thought:
    """A model's thought before its answer."""

    ids: tuple[int, ...] = ()
    """All tokens before the answer: the thought, its marks, and the newlines after it."""
    text: str = ""


def think(reply: ThinkingReply) -> Thought:
    """Generate `reply` up to its answer, and show the thought on stderr; empty if the model does not think.

    Raises:
        LlmcliError: the reply ended inside the thought.
        KeyboardInterrupt: Ctrl-C ended it there.
    """
    ids: list[int] = []
    thought = ""
    writer = ThoughtWriter()
    with closing(reply):
        for event in reply.events():
            if not isinstance(event, Step | Finish):
                continue
            thought += event.thinking
            writer.write(event.thinking)
            if event.text and not reply.awaits_answer:
                break
            if isinstance(event, Step):
                ids.append(event.id)
            elif reply.awaits_answer:
                if event.reason == "interrupted":
                    raise KeyboardInterrupt
                raise LlmcliError(no_answer_message(event))
    writer.end()
    marked = bool(thought) or bool(b"".join(map(reply.token_bytes, ids)).strip())
    return Thought(tuple(ids), thought) if marked else Thought()
