"""Find out how a chat template ends the model's turn: the model learned to end a reply with what it writes there.

Files often declare another token as the end of a text, or none. So a short conversation is rendered and examined.
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

# Words that no template writes by itself.
_SYSTEM, _QUESTION, _THOUGHT, _REPLY, _SECOND_QUESTION = (
    "zyxwv system",
    "zyxwv question",
    "zyxwv thought",
    "zyxwv reply",
    "zyxwv again",
)
_TOOL = "zyxwv_tool"
# Turn markers: text in brackets, or a word with symbols in it; not a full stop, a line of dashes or a plain word.
_BRACKETED = re.compile(
    r"\s*(<[^<>\n]{1,60}>|\[[^\[\]\n]{1,60}\]|\{[^{}\n]{1,60}\}|［[^\n［］]{1,60}］|〈[^\n〈〉]{1,60}〉)"
)
_WORD = re.compile(r"\s*((?=\S*[^\W_])(?=\S*(?:[^\w\s]|_))(?:[^\w\s]\S{2,59}|\w\S{1,58}[^\s.,;:!?]))(?=\s|$)")


@dataclass(frozen=True)
class TurnEnd:
    """What a template writes after a reply of the model."""

    ids: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """The token that ends the turn, with its origins; empty if there is none."""
    texts: tuple[str, ...] = ()
    """The text that ends the turn if it is not a single token; also with the white space before it."""
    inside: frozenset[int] = frozenset()
    """Control tokens after thinking or before a tool call: they end a part of the turn, not the turn."""

    def stop_ids(self, declared: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
        """The ids that end a reply, with their origins: those `declared` by files, and the template's own.

        A token that is only known from other models does not count if the template writes it inside a turn.
        """
        kept = {
            token: origins
            for token, origins in declared.items()
            if token not in self.inside or not all(origin.startswith(KNOWN) for origin in origins)
        }
        return kept | {token: (*kept.get(token, ()), *origins) for token, origins in self.ids.items()}

    def notes(self, notes: Sequence[str]) -> tuple[str, ...]:
        """`notes` about a model's files, without `NO_STOP_TOKEN` if the template ends a reply."""
        return tuple(note for note in notes if note != NO_STOP_TOKEN or not (self.ids or self.texts))


def turn_end(tokenizer: Tokenizer, template: ChatTemplate) -> TurnEnd:
    """The end of the model's turn according to `template`; empty if the template fails or has none.

    It is a control token, or a marker of several tokens. Never white space, ordinary words, the beginning of the user's
    turn, or a marker that is also inside a turn (after thinking, before a tool call). In OpenAI's harmony format a turn
    has several messages, so the end of a message does not end the turn, and the result is empty.
    """
    if is_harmony(tokenizer):
        return TurnEnd()
    places = _text_after_reply(template)
    if not any(places):
        return TurnEnd()
    within, at_the_end, beginning = (_marks(tokenizer, text) for text in places)
    if at_the_end:
        marks = _common_prefix(within, at_the_end)
    else:
        # Nothing follows the last reply. Then the end is the text before the beginning of the user's turn.
        starts = _common_prefix(within[::-1], beginning[::-1])
        marks = [mark for mark in within[: len(within) - len(starts)] if mark[0] not in places[2]]
    inner = _inside_a_turn(tokenizer, template)
    inside = frozenset(token for _, token in inner if token is not None)
    text, token = next((mark for mark in marks if mark not in inner), ("", None))
    if token is not None:
        # A thinking mark or BOS does not end a turn.
        is_end = not tokenizer.marks_thoughts(token) and (token != tokenizer.bos_id or token == tokenizer.eos_id)
        return TurnEnd({token: (ORIGIN,)} if is_end else {}, inside=inside)
    spaced = re.search(rf"^\s+{re.escape(text)}", places[0])
    return TurnEnd(texts=(*([spaced[0]] if spaced else []), text) if text else (), inside=inside)


def _common_prefix(
    one: Sequence[tuple[str, int | None]], other: Sequence[tuple[str, int | None]]
) -> list[tuple[str, int | None]]:
    """The marks that both begin with."""
    return [mark for mark, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def written(template: ChatTemplate, texts: Sequence[tuple[str, str]], *, add_generation_prompt: bool = True) -> str:
    """Render messages (role, text), with their content in the first form that the template writes completely.

    Raises:
        LlmcliError: the template refuses the messages, or fails.
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
                if template.exhaustion is not None:
                    raise
                continue
            if all(text in found for _, text in texts):
                return found
            incomplete = found if incomplete is None else incomplete
    if incomplete is None:
        assert fault is not None
        raise fault
    return incomplete


def _text_after_reply(template: ChatTemplate) -> tuple[str, str, str]:
    """The text between a reply and the user's next message, after the last reply, and before the first message.

    If the template accepts no second question, the first is the same as the second. A system prompt is added only if
    the template requires one. All are empty if it refuses these conversations or fails.
    """
    for system in ((), (("system", _SYSTEM),)):
        asked = [*system, ("user", _QUESTION), ("assistant", _REPLY)]
        history = _written_or_nothing(template, [*asked, ("user", _SECOND_QUESTION)], add_generation_prompt=True)
        last = _written_or_nothing(template, asked, add_generation_prompt=False)
        behind = last.rpartition(_REPLY)[2] if _REPLY in last else ""
        if _REPLY in history:
            before, _, after = history.partition(_REPLY)
            return (
                after.partition(_SECOND_QUESTION)[0] if _SECOND_QUESTION in after else "",
                behind,
                before.partition(_QUESTION)[0],
            )
        if behind:
            return behind, behind, last.partition(_QUESTION)[0]
    return "", "", ""


def _written_or_nothing(
    template: ChatTemplate, texts: Sequence[tuple[str, str]], *, add_generation_prompt: bool
) -> str:
    """Like `written`, but empty if the template refuses the messages or fails."""
    try:
        return written(template, texts, add_generation_prompt=add_generation_prompt)
    except LlmcliError:
        return ""


def _inside_a_turn(tokenizer: Tokenizer, template: ChatTemplate) -> list[tuple[str, int | None]]:
    """The marks after thinking and before a tool call, if the template writes such parts."""
    call = {"id": "zyxwv0123", "type": "function", "function": {"name": _TOOL, "arguments": {}}}
    reply: dict[str, Any] = {"role": "assistant", "content": _REPLY} | dict.fromkeys(THOUGHT_FIELDS, _THOUGHT)
    found: list[tuple[str, int | None]] = []
    for fields, first, second in (({}, _THOUGHT, _REPLY), ({"tool_calls": [call]}, _REPLY, _TOOL)):
        try:
            text = template.render(
                [{"role": "user", "content": _QUESTION}, reply | fields], add_generation_prompt=False
            )
        except LlmcliError:
            continue
        _, is_there, rest = text.partition(first)
        inside, is_second_there, _ = rest.partition(second)
        if is_there and is_second_there:
            found += _marks(tokenizer, inside)
    return found


def _marks(tokenizer: Tokenizer, text: str) -> list[tuple[str, int | None]]:
    """The control tokens in `text`, as (spelling, id); if it begins with a text marker, only that, without an id."""
    spans = tokenizer.control_spans(text)
    before = text[: spans[0][0]] if spans else text
    if before.strip():
        found = _BRACKETED.match(before) or _WORD.match(before)
        return [(found[1], None)] if found else []
    spellings = [text[start:end].strip() for start, end in spans]
    return [(spelling, tokenizer.token_to_id(spelling)) for spelling in spellings]
