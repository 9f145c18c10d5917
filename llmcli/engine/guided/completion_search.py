"""Search for a short ending of an unfinished text that must have a form.

The search goes byte by byte, which needs no tokenizer and is fast: one more byte takes a few microseconds. The library
does not show the state of its parser, only which bytes can follow, so two texts that the same bytes can follow count
as equivalent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from itertools import compress
from operator import itemgetter
from typing import TYPE_CHECKING

from llmcli.engine.guided.json_state import JsonText

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from llmcli.engine.guided.grammar import Rule

# Bytes that bring a text to an end, the most effective first; then everything else.
_CLOSING = b'"}])>0;.'
# In JSON: outside strings, where a comma leads to the end sooner than one more digit, and `null` sooner than a list or
# object that may need items; and inside strings, where dots fill a string up to its minimal length.
_JSON_OUTSIDE = b'}]:,0"123456789-ntf[{'
_JSON_INSIDE = b'".'


def _order(first: bytes) -> bytes:
    letters = [*range(97, 123), *range(48, 58), *range(65, 91)]
    other = [
        byte for byte in [*letters, *range(33, 127), 32, 10, *range(128, 256), *range(32), 127] if byte not in first
    ]
    return bytes(dict.fromkeys([*first, *other]))


_ANY, _INSIDE, _OUTSIDE = _order(_CLOSING), _order(_JSON_INSIDE), _order(_JSON_OUTSIDE)
_NESTED = _order(_JSON_OUTSIDE.replace(b"ntf[{", b"[{ntf"))
# Texts that the beam search keeps at each length. Of each of its passes: how many equivalent texts it keeps, whether it
# tries only bytes that led to different states before, and the share of the remaining budget that it may spend.
_WIDTH = 12
_PASSES = ((1, False, 0.4), (1, True, 0.4), (3, False, 1.0))
# Where more bytes than this can follow, the search remembers which of them lead to different states.
_MANY = 24
# Parts of an expression or a grammar that are not literal text: optional characters, classes, flags of groups,
# counts, and operators.
_SPELLED = re.compile(
    r"\[\^?\]?(?:[^\]\\]|\\.)*\]|\\[pP]\{[^}]*\}|\\[a-zA-Z0-9]|\(\?[a-zA-Z:<>=!-]*|.[?*](?!\w)|.\{[0-9, ]*\}"
    r"|\\(?=\W)|[][(){}.*+?|^$\"\n~&/]"
)
_MOST_HINTS = 24
# Strings and expressions in a grammar, and patterns in a schema.
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
_PATTERN = re.compile(r'"pattern"\s*:\s*("(?:[^"\\]|\\.)*")')
# The longest ending, in bytes, that the search looks for after the greedy ending has run into a loop.
_DEEPEST = 1024
# How often the same set of bytes may follow before the greedy ending counts as a loop; a string with a minimal length
# repeats for a while too.
_ROUNDS = 1200
# The most bytes to read while looking for a tail of a known ending that fits.
_EFFORT = 2000


class EndingSearch:
    """Follows one reply byte by byte and finds endings: bytes that complete it."""

    def __init__(self, rule: Rule, usable: Collection[int] = range(256), *, prefill: bytes = b"") -> None:
        """The text begins with `prefill`. The search tries the bytes `usable`, and others where only one is allowed.

        Raises:
            UsageError: the rule is not valid, or no text of this form begins with `prefill`.
        """
        self._matcher = rule.byte_matcher(prefill)
        orders = [bytes(byte for byte in order if byte in usable) for order in (_ANY, _INSIDE, _OUTSIDE, _NESTED)]
        self._orders = [(order, itemgetter(*order, 256, 256)) for order in orders]
        self._json = JsonText().after(prefill) if rule.kind == "json-schema" else None
        self._hints = _hints(rule)
        self._remembered: dict[tuple[bytes, bool], list[bytes]] = {}

    @property
    def json(self) -> JsonText | None:
        """The state of the JSON text; None if the form is not JSON."""
        return self._json

    def push(self, data: bytes) -> Callable[[], None]:
        """Append `data`, which must be allowed to follow; returns a function that undoes it."""
        before, json = self._matcher.deep_copy(), self._json
        self._matcher.consume_tokens(list(data))
        if json is not None:
            self._json = json.after(data)

        def back() -> None:
            self._matcher, self._json = before, json

        return back

    @property
    def lost(self) -> bool:
        """Whether the pushed bytes violate the form, as the bytes of a control token that a grammar names do."""
        return bool(self._matcher.is_error())

    def rest_of(self, ending: bytes) -> bytes | None:
        """The tail of `ending` that also ends this text: the bytes after one value usually fit after another too."""
        return _fitting_tail(self._matcher, ending, _EFFORT)

    def greedy(self, longest: int, *, looks: int = 0, nested: bool = False) -> bytes | None:
        """A greedy ending of at most `longest` bytes: close whatever can be closed, which completes most JSON.

        If that loops, a search that may try `looks` bytes continues from the start of the loop. With `nested`, an empty
        list or object in JSON comes before `null`: it is shorter, but a recursive schema may need `null` to end.
        """
        matcher, json = self._matcher.deep_copy(), self._json
        taken = bytearray()
        # How often each set of bytes could follow, and the offset where it could first.
        rounds: dict[bytes, int] = {}
        first: dict[bytes, int] = {}
        while not matcher.is_accepting():
            follows = bytes(matcher.compute_logit_bias())
            rounds[follows] = rounds.get(follows, 0) + 1
            first.setdefault(follows, len(taken))
            if rounds[follows] > _ROUNDS:
                return self._search_on(bytes(taken[: first[follows]]), longest, looks)
            following = bytes(matcher.compute_ff_tokens() or self._possible(follows, json, nested=nested)[:1])
            if not following or len(taken) >= longest or not matcher.consume_tokens(list(following)):
                return None
            taken += following
            json = json and json.after(following)
        return bytes(taken)

    def _search_on(self, taken: bytes, longest: int, looks: int) -> bytes | None:
        if not taken or looks <= 0:
            return None
        back = self.push(taken)
        found, _ = self.search(looks, min(longest - len(taken), _DEEPEST))
        back()
        return None if found is None else taken + found

    def search(self, looks: int, longest: int, *, known: bytes = b"") -> tuple[bytes | None, int]:
        """The shortest ending found, of at most `longest` bytes, and the looks left; one look tries one more byte.

        Where a tail of the ending `known` fits a text found on the way, it completes that text.
        """
        for most_equivalent, only_remembered, share in _PASSES:
            granted = int(share * looks)
            found, left = self._search(granted, longest, known, most_equivalent, only_remembered=only_remembered)
            looks -= granted - left
            if found is not None:
                return found, looks
        return None, looks

    def _search(
        self, looks: int, longest: int, known: bytes, most_equivalent: int, *, only_remembered: bool
    ) -> tuple[bytes | None, int]:
        level = [_FoundText(b"", self._matcher.deep_copy(), self._json)]
        while level and looks > 0:
            following: list[_FoundText] = []
            for text in level:
                ways = self._candidates(text, only_remembered=only_remembered)
                looks -= len(ways)
                reached: dict[bytes, list[bytes]] = {}
                for data in ways:
                    said, matcher = text.data + data, text.matcher.deep_copy()
                    if len(said) > longest or not matcher.consume_tokens(list(data)):
                        continue
                    if matcher.is_accepting():
                        return said, looks
                    rest = _fitting_tail(matcher, known, _EFFORT // 10) if known else None
                    if rest is not None and len(said) + len(rest) <= longest:
                        return said + rest, looks
                    after = text.then(data, matcher, is_hint=data in self._hints)
                    reached.setdefault(after.follows, []).append(data)
                    following.append(after)
                if len(ways) > _MANY:
                    self._remembered[text.place] = [data for alikes in reached.values() for data in alikes[:2]]
            level = _best_texts(following, most_equivalent)
        return None, looks

    def _candidates(self, text: _FoundText, *, only_remembered: bool) -> list[bytes]:
        """Bytes to try after `text`; with `only_remembered`, representatives from earlier where many could follow."""
        forced = bytes(text.matcher.compute_ff_tokens())
        if forced:
            return [forced]
        known = self._remembered.get(text.place) if only_remembered else None
        ways = known or [bytes([byte]) for byte in self._possible(text.follows, text.json)]
        hints = [hint for hint in self._hints if text.follows[hint[0]] and hint not in text.hints]
        return [*hints, *(way for way in ways if way not in hints)]

    def _possible(self, follows: bytes, json: JsonText | None, *, nested: bool = False) -> list[int]:
        """Usable bytes that can come next, those that close something first."""
        order, picked = self._orders[0 if json is None else 1 if json.in_string else 2 + nested]
        return list(compress(order, picked(follows)))


class _FoundText:
    """A text that the beam search has reached, and the state of the parser after it."""

    def __init__(
        self,
        data: bytes,
        matcher: LLMatcher,
        json: JsonText | None,
        seen: frozenset[bytes] = frozenset(),
        hints: frozenset[bytes] = frozenset(),
    ) -> None:
        self.data, self.matcher, self.json, self.hints = data, matcher, json, hints
        self.follows = bytes(matcher.compute_logit_bias())
        self.place = (self.follows, json is not None and json.in_string)
        self.parser_state = (self.follows, hints)
        self.seen = seen | {self.follows}
        """The sets of bytes that could follow so far, each once."""

    def then(self, data: bytes, matcher: LLMatcher, *, is_hint: bool) -> _FoundText:
        """The text with `data` appended; `matcher` is the parser after it."""
        hints = self.hints | {data} if is_hint else self.hints
        return _FoundText(self.data + data, matcher, self.json and self.json.after(data), self.seen, hints)

    @property
    def progress(self) -> int:
        """How many different states the text has passed and hints it has used: more means further along."""
        return len(self.seen) + len(self.hints)


def _best_texts(texts: list[_FoundText], most_equivalent: int) -> list[_FoundText]:
    """The texts furthest along, at most `most_equivalent` of those that are equivalent."""
    chosen: list[_FoundText] = []
    counts: dict[tuple[bytes, frozenset[bytes]], int] = {}
    for text in sorted(texts, key=lambda text: -text.progress):
        counts[text.parser_state] = counts.get(text.parser_state, 0) + 1
        if counts[text.parser_state] <= most_equivalent:
            chosen.append(text)
            if len(chosen) == _WIDTH:
                break
    return chosen


def _fitting_tail(matcher: LLMatcher, ending: bytes, effort: int) -> bytes | None:
    """The longest tail of `ending` that completes the text of `matcher`; None if not found in `effort` bytes."""
    follows = matcher.compute_logit_bias()
    for start, byte in enumerate(ending):
        if not follows[byte]:
            continue
        rest = list(ending[start:])
        valid = matcher.validate_tokens(rest)
        if valid == len(rest):
            trial = matcher.deep_copy()
            if trial.consume_tokens(rest) and trial.is_accepting():
                return ending[start:]
        effort -= 1 + valid
        if effort <= 0:
            break
    return None


def _hints(rule: Rule) -> list[bytes]:
    """Literal words of a rule: trying them makes progress even where any text could follow."""
    if rule.kind == "regex":
        texts = [rule.text]
    elif rule.kind == "grammar":
        texts = [part[1:-1] for part in _QUOTED.findall(rule.text)]
    else:
        texts = [str(json.loads(text, strict=False)) for text in _PATTERN.findall(rule.text)]
    words = [word for text in texts for word in _SPELLED.sub("\0", text).split("\0") if word]
    return [word.encode(errors="replace") for word in dict.fromkeys(words)][:_MOST_HINTS]
