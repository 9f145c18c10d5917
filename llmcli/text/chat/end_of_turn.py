"""How a chat template ends the model's turn: what it writes behind a reply is what the model learnt to end one with.

Files often name another token as the one that ends a text, or none. So a short conversation is written down and looked
at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, takewhile
from typing import Any

from llmcli.errors import LlmcliError
from llmcli.text.chat.messages import THOUGHT_FIELDS
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.stop_tokens import KNOWN, NO_STOP_TOKEN, is_harmony
from llmcli.text.tokenizer import Tokenizer

ORIGIN = "the template ends a turn with it"

# Words that no template writes of itself.
_TOLD, _ASKED, _THOUGHT, _SAID, _AGAIN = (
    "zyxwv system",
    "zyxwv question",
    "zyxwv thought",
    "zyxwv reply",
    "zyxwv again",
)
_TOOL = "zyxwv_tool"
# A marker of turns: in brackets, or a word with signs in it. A full stop, a rule of dashes or a word is none.
_BRACKETED = re.compile(
    r"\s*(<[^<>\n]{1,60}>|\[[^\[\]\n]{1,60}\]|\{[^{}\n]{1,60}\}|［[^\n［］]{1,60}］|〈[^\n〈〉]{1,60}〉)"
)
_WORD = re.compile(r"\s*((?=\S*[^\W_])(?=\S*(?:[^\w\s]|_))(?:[^\w\s]\S{2,59}|\w\S{1,58}[^\s.,;:!?]))(?=\s|$)")


@dataclass(frozen=True)
class TurnEnd:
    """What a template writes behind a reply of the model."""

    ids: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """The token that ends the turn, with where that comes from; empty if none does."""
    texts: tuple[str, ...] = ()
    """The text that does, where it is no token of its own; with the white space before it, too."""
    inside: frozenset[int] = frozenset()
    """Control tokens behind a thought or before a tool call: they end a part of the turn, not the turn."""

    def stop_ids(self, declared: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """The ids that end a reply, with the places that say so: those `declared` by files, and the template's own.

        A token that is only known from other models counts no more if it is found inside a turn here.
        """
        kept = {
            token: origins
            for token, origins in declared.items()
            if token not in self.inside or not all(origin.startswith(KNOWN) for origin in origins)
        }
        return kept | {token: (*kept.get(token, ()), *origins) for token, origins in self.ids.items()}

    def notes(self, notes: Sequence[str]) -> tuple[str, ...]:
        """`notes` about a model's files, without the one that nothing ends a reply where the template does."""
        return tuple(note for note in notes if note != NO_STOP_TOKEN or not (self.ids or self.texts))


def turn_end(tokenizer: Tokenizer, template: ChatTemplate) -> TurnEnd:
    """What ends the model's turn according to `template`; nothing where it fails or does not say.

    A control token does, or a marker that is several tokens. White space and ordinary words never do, nor does what
    begins the user's turn, nor what also stands inside a turn, behind a thought or before a tool call. Where a turn
    has several messages, as in OpenAI's harmony format, the end of a message is not the end of the turn, and nothing
    is concluded.
    """
    if is_harmony(tokenizer):
        return TurnEnd()
    places = _behind_a_reply(template)
    if not any(places):
        return TurnEnd()
    within, at_the_end, beginning = (_marks(tokenizer, text) for text in places)
    if at_the_end:
        marks = _alike(within, at_the_end)
    else:
        # It ends the last reply with nothing. Then the end is what the user's turn does not begin with.
        starts = _alike(within[::-1], beginning[::-1])
        marks = [mark for mark in within[: len(within) - len(starts)] if mark[0] not in places[2]]
    inner = _inside_a_turn(tokenizer, template)
    inside = frozenset(token for _, token in inner if token is not None)
    text, token = next((mark for mark in marks if mark not in inner), ("", None))
    if token is not None:
        # A mark of thinking or the beginning of a text ends nothing.
        is_end = not tokenizer.marks_thoughts(token) and (token != tokenizer.bos_id or token == tokenizer.eos_id)
        return TurnEnd({token: (ORIGIN,)} if is_end else {}, inside=inside)
    spaced = re.search(rf"^\s+{re.escape(text)}", places[0])
    return TurnEnd(texts=(*([spaced[0]] if spaced else []), text) if text else (), inside=inside)


def _alike(
    one: Sequence[tuple[str, int | None]], other: Sequence[tuple[str, int | None]]
) -> list[tuple[str, int | None]]:
    """What both begin with."""
    return [mark for mark, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def written(template: ChatTemplate, texts: Sequence[tuple[str, str]], *, add_generation_prompt: bool = True) -> str:
    """What `template` makes of messages of some (role, text), their content in the first form that it takes whole.

    Raises:
        LlmcliError: it refuses the messages, or fails.
    """
    roles = list(dict.fromkeys(role for role, _ in texts))
    fault: LlmcliError | None = None
    incomplete: str | None = None
    for size in (0, len(roles), *range(1, len(roles))):
        for parts in combinations(roles, size):
            messages: list[Mapping[str, object]] = [
                {"role": role, "content": [{"type": "text", "text": text}] if role in parts else text}
                for role, text in texts
            ]
            try:
                found = template.render(messages, add_generation_prompt=add_generation_prompt)
            except LlmcliError as error:
                fault = fault or error
                if template.is_exhausted:
                    raise
                continue
            if all(text in found for _, text in texts):
                return found
            incomplete = found if incomplete is None else incomplete
    if incomplete is None:
        assert fault is not None
        raise fault
    return incomplete


def _behind_a_reply(template: ChatTemplate) -> tuple[str, str, str]:
    """The text behind a reply up to the user's next message, and at the end of all; that before the first message.

    Where the template takes no second question, the end of all is all there is to go by; and a system prompt is only
    there where it demands one. All are empty where it refuses every such conversation, or fails.
    """
    for system in ((), (("system", _TOLD),)):
        asked = [*system, ("user", _ASKED), ("assistant", _SAID)]
        history = _written_or_nothing(template, [*asked, ("user", _AGAIN)], add_generation_prompt=True)
        last = _written_or_nothing(template, asked, add_generation_prompt=False)
        behind = last.rpartition(_SAID)[2] if _SAID in last else ""
        if _SAID in history:
            before, _, after = history.partition(_SAID)
            return after.partition(_AGAIN)[0] if _AGAIN in after else "", behind, before.partition(_ASKED)[0]
        if behind:
            return behind, behind, last.partition(_ASKED)[0]
    return "", "", ""


def _written_or_nothing(
    template: ChatTemplate, texts: Sequence[tuple[str, str]], *, add_generation_prompt: bool
) -> str:
    """Like `written`; empty where the template refuses the messages, or fails."""
    try:
        return written(template, texts, add_generation_prompt=add_generation_prompt)
    except LlmcliError:
        return ""


def _inside_a_turn(tokenizer: Tokenizer, template: ChatTemplate) -> list[tuple[str, int | None]]:
    """The marks behind a thought and before a tool call, where a turn has such parts."""
    call = {"id": "zyxwv0123", "type": "function", "function": {"name": _TOOL, "arguments": {}}}
    reply: dict[str, Any] = {"role": "assistant", "content": _SAID} | dict.fromkeys(THOUGHT_FIELDS, _THOUGHT)
    found: list[tuple[str, int | None]] = []
    for fields, first, second in (({}, _THOUGHT, _SAID), ({"tool_calls": [call]}, _SAID, _TOOL)):
        try:
            text = template.render([{"role": "user", "content": _ASKED}, reply | fields], add_generation_prompt=False)
        except LlmcliError:
            continue
        _, is_there, rest = text.partition(first)
        inside, is_second_there, _ = rest.partition(second)
        if is_there and is_second_there:
            found += _marks(tokenizer, inside)
    return found


def _marks(tokenizer: Tokenizer, text: str) -> list[tuple[str, int | None]]:
    """The control tokens in `text`, as (spelling, id); if it begins with another marker, that one alone."""
    spans = tokenizer.control_spans(text)
    before = text[: spans[0][0]] if spans else text
    if before.strip():
        found = _BRACKETED.match(before) or _WORD.match(before)
        return [(found[1], None)] if found else []
    spellings = [text[start:end].strip() for start, end in spans]
    return [(spelling, tokenizer.token_to_id(spelling)) for spelling in spellings]
