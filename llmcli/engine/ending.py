"""How a text that must have a form can be brought to an end, from wherever it stands.

The search goes byte by byte, which needs no tokenizer and is fast: a look at one more byte takes some microseconds. The
library does not say which state of its parser a text has led to, only which bytes can follow; what can be followed by
the same bytes counts as alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from itertools import compress
from operator import itemgetter
from typing import TYPE_CHECKING

from llmcli.engine.json_text import JsonText

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from llmcli.engine.rule import Rule

# Bytes that bring a text to an end, the most effective first; then everything else.
_CLOSING = b'"}])>0;.'
# In JSON: outside strings, where a comma is nearer to the end than one more digit, and `null` nearer than what may have
# to be filled; and inside, where dots fill up a text that has to have a length.
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
# Texts of one length that a search keeps. It goes out several times: how many it keeps of those after which the same
# bytes can follow, whether it tries only what led to something else before, and its share of the looks that are left.
_WIDTH = 12
_PASSES = ((1, False, 0.4), (1, True, 0.4), (3, False, 1.0))
# More ways than this from one place are remembered by what they lead to.
_MANY = 24
# What of an expression or a grammar is not said as it is written: a character that need not come, classes, flags of
# groups, counts, and signs.
_SPELLED = re.compile(
    r"\[\^?\]?(?:[^\]\\]|\\.)*\]|\\[pP]\{[^}]*\}|\\[a-zA-Z0-9]|\(\?[a-zA-Z:<>=!-]*|.[?*](?!\w)|.\{[0-9, ]*\}"
    r"|\\(?=\W)|[][(){}.*+?|^$\"\n~&/]"
)
_MOST_HINTS = 24
# Where a grammar and a schema have what may be spelled out.
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?:[^/\\\n]|\\.)+/')
_PATTERN = re.compile(r'"pattern"\s*:\s*("(?:[^"\\]|\\.)*")')
# The longest way that is searched for where the straight way goes round in circles.
_DEEPEST = 1024
# How often the same bytes can follow before a straight way is taken to go round in circles: a text of a least length
# does so for a while.
_ROUNDS = 1200
# Bytes that are read to see which end of a known ending will do.
_EFFORT = 2000


class EndingSearch:
    """Goes along with one reply, and finds texts that end it."""

    def __init__(self, rule: Rule, usable: Collection[int] = range(256), *, prefill: bytes = b"") -> None:
        """Only the bytes `usable` are tried, and those that must come; `prefill` begins the text.

        Raises:
            UsageError: the rule is none, or no text of this form begins with `prefill`.
        """
        self._matcher = rule.byte_matcher(prefill)
        orders = [bytes(byte for byte in order if byte in usable) for order in (_ANY, _INSIDE, _OUTSIDE, _NESTED)]
        self._orders = [(order, itemgetter(*order, 256)) for order in orders]
        self._json = JsonText().after(prefill) if rule.kind == "json-schema" else None
        self._hints = _hints(rule)
        self._ways_from: dict[tuple[bytes, bool], list[bytes]] = {}

    @property
    def json(self) -> JsonText | None:
        """Where the JSON text stands; None if the form is another."""
        return self._json

    def push(self, data: bytes) -> Callable[[], None]:
        """Go on with `data`, which can follow; returns what takes it back."""
        before, json = self._matcher.deep_copy(), self._json
        self._matcher.consume_tokens(list(data))
        if json is not None:
            self._json = json.after(data)

        def back() -> None:
            self._matcher, self._json = before, json

        return back

    @property
    def lost(self) -> bool:
        """What was pushed is no text of single bytes, such as a control token that a grammar names."""
        return bool(self._matcher.is_error())

    def rest_of(self, ending: bytes) -> bytes | None:
        """An end of `ending` that ends this text too: what follows one value mostly follows another as well."""
        return _attached(self._matcher, ending, _EFFORT)

    def straight(self, longest: int, *, looks: int = 0, nested: bool = False) -> bytes | None:
        """What closes is taken wherever it can be: the way out of most JSON, of at most `longest` bytes.

        Where that goes round in circles, it is searched on from there with as many `looks`. With `nested`, an empty
        list or object in JSON is taken before `null`, which is longer, but may be the only way out of nesting.
        """
        matcher, json = self._matcher.deep_copy(), self._json
        taken = bytearray()
        # How often the same could follow, and after how many bytes it could first.
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
        """The shortest ending found with `looks` at one more byte each, of at most `longest` bytes; and the looks left.

        Where an end of `known` ends a text that the search has come to, that will do.
        """
        for alike, by_heart, share in _PASSES:
            granted = int(share * looks)
            found, left = self._search(granted, longest, known, alike, by_heart=by_heart)
            looks -= granted - left
            if found is not None:
                return found, looks
        return None, looks

    def _search(
        self, looks: int, longest: int, known: bytes, alike: int, *, by_heart: bool
    ) -> tuple[bytes | None, int]:
        level = [_Text(b"", self._matcher.deep_copy(), self._json)]
        while level and looks > 0:
            following: list[_Text] = []
            for text in level:
                ways = self._ways(text, by_heart=by_heart)
                looks -= len(ways)
                reached: dict[bytes, list[bytes]] = {}
                for data in ways:
                    said, matcher = text.data + data, text.matcher.deep_copy()
                    if len(said) > longest or not matcher.consume_tokens(list(data)):
                        continue
                    if matcher.is_accepting():
                        return said, looks
                    rest = _attached(matcher, known, _EFFORT // 10) if known else None
                    if rest is not None and len(said) + len(rest) <= longest:
                        return said + rest, looks
                    after = text.then(data, matcher, is_hint=data in self._hints)
                    reached.setdefault(after.follows, []).append(data)
                    following.append(after)
                if len(ways) > _MANY:
                    self._ways_from[text.place] = [data for alikes in reached.values() for data in alikes[:2]]
            level = _chosen(following, alike)
        return None, looks

    def _ways(self, text: _Text, *, by_heart: bool) -> list[bytes]:
        """What is tried next; `by_heart`, from where many bytes could follow before, only some that led to the same."""
        forced = bytes(text.matcher.compute_ff_tokens())
        if forced:
            return [forced]
        known = self._ways_from.get(text.place) if by_heart else None
        ways = known or [bytes([byte]) for byte in self._possible(text.follows, text.json)]
        hints = [hint for hint in self._hints if text.follows[hint[0]] and hint not in text.hints]
        return [*hints, *(way for way in ways if way not in hints)]

    def _possible(self, follows: bytes, json: JsonText | None, *, nested: bool = False) -> list[int]:
        """Of the bytes that can come next those to try, those that close first."""
        order, picked = self._orders[0 if json is None else 1 if json.in_string else 2 + nested]
        return list(compress(order, picked(follows)))


class _Text:
    """A text that a search has come to."""

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
        self.alike = (self.follows, hints)
        self.seen = seen | {self.follows}
        """What could follow at each place on the way here."""

    def then(self, data: bytes, matcher: LLMatcher, *, is_hint: bool) -> _Text:
        """The text that goes on with `data`, after which `matcher` says what follows."""
        hints = self.hints | {data} if is_hint else self.hints
        return _Text(self.data + data, matcher, self.json and self.json.after(data), self.seen, hints)

    @property
    def progress(self) -> int:
        """In how many different places it has been, and what it has said of the rule: the more, the further it is."""
        return len(self.seen) + len(self.hints)


def _chosen(texts: list[_Text], alike: int) -> list[_Text]:
    """Those that have come furthest, and of those after which the same can follow the first few."""
    chosen: list[_Text] = []
    counts: dict[tuple[bytes, frozenset[bytes]], int] = {}
    for text in sorted(texts, key=lambda text: -text.progress):
        counts[text.alike] = counts.get(text.alike, 0) + 1
        if counts[text.alike] <= alike:
            chosen.append(text)
            if len(chosen) == _WIDTH:
                break
    return chosen


def _attached(matcher: LLMatcher, ending: bytes, effort: int) -> bytes | None:
    """The longest end of `ending` that ends the text of `matcher`, if it is found within `effort`, in bytes read."""
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
    """What a rule spells out: a search that says it gets further even where any text could follow."""
    if rule.kind == "regex":
        texts = [rule.text]
    elif rule.kind == "grammar":
        texts = [part[1:-1] for part in _QUOTED.findall(rule.text)]
    else:
        texts = [str(json.loads(text, strict=False)) for text in _PATTERN.findall(rule.text)]
    words = [word for text in texts for word in _SPELLED.sub("\0", text).split("\0") if word]
    return [word.encode(errors="replace") for word in dict.fromkeys(words)][:_MOST_HINTS]
