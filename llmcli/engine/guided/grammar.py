"""The form that the user asks for. It needs neither a model nor torch, so it is checked before anything is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmcli.engine.guided.json_schema import AdaptedSchema
from llmcli.errors import UsageError
from llmcli.extras import install_command

if TYPE_CHECKING:
    from llguidance import LLMatcher

# The JSON that models write: at most one space after a comma or a colon. (Expressions need llguidance 1.3 or newer.)
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
_FREE = {"whitespace_flexible": True}
_OF_WHITESPACE = {"whitespace_flexible", "whitespace_pattern"}
# A `%json` part of a grammar; first strings, expressions and comments, inside of which "%json" means nothing.
_JSON_PART = re.compile(r'"(?:[^"\\\n]|\\.)*"|/(?![/*])(?:[^/\\\n]|\\.)+/|//[^\n]*|#[^\n]*|(?P<before>%json\s*)')
# The most characters of a text that a message quotes.
_LONGEST_SHOWN = 40
# Error messages of llguidance, and ours in their place.
_MESSAGES = (
    (
        r"min/maxProperties only supported when .*",
        'replies can only be held to "minProperties" and "maxProperties" where '
        'every property that "properties" names is required: leave it out and check the reply',
    ),
    (r"Unsatisfiable schema: ", "nothing fits it: "),
    (r"Expected f64 for '(\w+)'", r'"\1" is a number'),
    (
        r"Failed to generate regex for (?:integer|float) range: .*",
        "the range of the number is too large: keep to 64 bits",
    ),
    (r"Unimplemented keys: \[(.*)\]", r"replies cannot be held to \1: leave it out and check the reply"),
)
# The most subschemas that are tried alone to find the one that llguidance refuses.
_MOST_PLACES = 200

Kind: TypeAlias = Literal["json-schema", "regex", "grammar"]


class PrefillError(UsageError):
    """No text of the form begins with the prefill."""


@dataclass(frozen=True)
class Rule:
    """The form a reply must have."""

    kind: Kind
    text: str
    """A JSON schema, a regular expression, or a grammar in the Lark syntax of llguidance."""

    free_whitespace: bool = False
    """JSON can have any whitespace between its tokens, instead of at most a space after each comma and colon."""

    def check(self, prefill: str = "") -> list[str]:
        """Check the rule, and return warnings about it.

        Raises:
            UsageError: the rule is not valid, or no text of this form begins with `prefill`.
        """
        grammar, schema = self._grammar
        failed, words = _library().validate_grammar_with_warnings(grammar)
        if failed:
            raise self._unusable(words[0], "" if schema is None else _place(schema, words[0]))
        if self.kind == "regex":
            matcher = self.byte_matcher()
            if not matcher.is_accepting() and not any(matcher.compute_logit_bias()[:256]):
                raise self._unusable("no text matches it")
        # A grammar that names control tokens needs the model's own tokenizer.
        if prefill and not _library().validate_grammar(grammar, _byte_tokenizer()):
            self.byte_matcher(prefill.encode(errors="replace"))
        # The user need not read that control tokens are not looked up here, without the model's tokenizer.
        warnings = [str(word) for word in words if "no tokenizer" not in word]
        return [*([] if schema is None else schema.notes), *warnings]

    def matcher(self, tokenizer: Any) -> LLMatcher:
        """A matcher of llguidance at the beginning of a text; `tokenizer` is an `LLTokenizer`.

        Raises:
            UsageError: the rule is not valid.
        """
        # At level 0 the library writes nothing to stderr: errors are raised here, warnings returned by `check`.
        matcher: LLMatcher = _library()(tokenizer, self._grammar[0], log_level=0)
        if matcher.is_error():
            raise self._unusable(matcher.get_error())
        return matcher

    def byte_matcher(self, prefill: bytes = b"") -> LLMatcher:
        """A matcher of llguidance after `prefill` whose tokens are the 256 bytes.

        Raises:
            UsageError: the rule is not valid, or no text of this form begins with `prefill` (`PrefillError`).
        """
        matcher = self.matcher(_byte_tokenizer())
        count = matcher.validate_tokens(list(prefill))
        if count < len(prefill):
            raise PrefillError(self._violation(prefill, count))
        matcher.consume_tokens(list(prefill))
        return matcher

    def _violation(self, prefill: bytes, count: int) -> str:
        """The error for a `prefill` of which only the first `count` bytes can begin a text of this form."""
        text = prefill.decode(errors="replace")
        # Cut at a whole character.
        at = len(prefill[:count].decode(errors="ignore"))
        matcher = self.matcher(_byte_tokenizer())
        matcher.consume_tokens(list(text[:at].encode()))
        why = f"No text of the form that is asked for begins with {_short(text)!r}: "
        after = f"after {_short(text[:at], end=True)!r}, " if at else ""
        if matcher.is_stopped():
            return f"{why}it is complete {after.removesuffix(', ')}, and {text[at]!r} follows."
        where = f", where {wanted} can come" if (wanted := self._expected(matcher)) else ""
        hint = ""
        if self.kind == "json-schema" and not self.free_whitespace:
            free = replace(self, free_whitespace=True).matcher(_byte_tokenizer())
            if free.validate_tokens(list(prefill)) == len(prefill):
                hint = " With --free-whitespace one does."
        return f"{why}{after}it has {text[at]!r}{where}.{hint}"

    @staticmethod
    def _expected(matcher: LLMatcher) -> str:
        """The bytes that can come next, as text for a message; empty if they are many."""
        must = bytes(matcher.compute_ff_tokens()).decode(errors="ignore")
        if must:
            return repr(_short(must))
        bias = matcher.compute_logit_bias()
        can = "".join(chr(byte) for byte in range(32, 127) if bias[byte])
        return "" if not 0 < len(can) <= _LONGEST_SHOWN else repr(can) if len(can) == 1 else f"one of {can!r}"

    @cached_property
    def _grammar(self) -> tuple[str, AdaptedSchema | None]:
        """The rule as a grammar of llguidance, and the adapted schema it was made of, if any."""
        library = _library()
        if self.kind == "regex":
            return str(library.grammar_from_regex(self.text)), None
        if self.kind == "grammar":
            return str(library.grammar_from_lark(self._with_adapted_json())), None
        try:
            schema = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The --json-schema is not JSON: {error}.") from None
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise UsageError("The --json-schema must be a JSON object.")
        adapted = AdaptedSchema(schema, _known_format)
        # Where a schema sets one option for whitespace, the defaults for the others do not apply: they may not fit it.
        own = _OF_WHITESPACE & adapted.options.keys()
        defaults = {} if own else _FREE if self.free_whitespace else _COMPACT
        try:
            return str(library.grammar_from_json_schema(json.dumps(adapted.root), defaults=defaults)), adapted
        except ValueError as error:  # nested too deeply for the library
            raise self._unusable(str(error)) from None

    def _with_adapted_json(self) -> str:
        """The grammar with its `%json` parts adapted and compact, like a --json-schema.

        Raises:
            UsageError: one of them cannot be enforced.
        """
        parts, end = [], 0
        while found := _JSON_PART.search(self.text, end):
            start = found.end("before")
            if found["before"] is None:  # a text, an expression or a comment
                parts.append(self.text[end : found.end()])
                end = found.end()
                continue
            try:
                schema, end_of_json = json.JSONDecoder().raw_decode(self.text, start)
            except (ValueError, RecursionError):  # the library says where it is wrong
                break
            if schema is True:
                schema = {}
            if isinstance(schema, dict):
                try:
                    own = AdaptedSchema(schema, _known_format).root.setdefault("x-guidance", {})
                except UsageError as error:
                    raise UsageError(str(error).replace("--json-schema", "%json of the --grammar")) from None
                if not self.free_whitespace and not _OF_WHITESPACE & own.keys():
                    schema["x-guidance"] = {**_COMPACT, **own}
            parts += [self.text[end:start], json.dumps(schema)]
            end = end_of_json
        return "".join([*parts, self.text[end:]])

    def _unusable(self, why: str, place: str = "") -> UsageError:
        for theirs, ours in _MESSAGES:
            why = re.sub(theirs, ours, why)
        lines = [line.strip() for line in why.splitlines() if line.strip()]
        return UsageError(
            f"The --{self.kind} cannot be used: {f'at {place}, ' if place else ''}{' '.join(lines)[:500]}."
        )


def _place(schema: AdaptedSchema, why: str) -> str:
    """The innermost subschema that alone makes llguidance raise the error `why`, as a path; empty if none does."""
    library, shared = _library(), {name: schema.root[name] for name in ("$defs", "definitions") if name in schema.root}
    for place in sorted(list(schema.places)[:_MOST_PLACES], key=lambda place: -place.count("/")):
        alone = json.dumps({**shared, **schema.places[place]})
        if library.validate_grammar(library.grammar_from_json_schema(alone)) == why:
            return place if place != "#" else ""
    return ""


def _known_format(name: str) -> bool:
    library = _library()
    schema = json.dumps({"type": "string", "format": name})
    return not library.validate_grammar(library.grammar_from_json_schema(schema))


def _short(text: str, *, end: bool = False) -> str:
    if len(text) <= _LONGEST_SHOWN:
        return text
    return "…" + text[-_LONGEST_SHOWN:] if end else text[:_LONGEST_SHOWN] + "…"


@cache
def _byte_tokenizer() -> Any:
    """An `LLTokenizer` of llguidance whose tokens are the 256 bytes."""
    from llguidance import LLTokenizer, TokenizerWrapper

    class Bytes:
        eos_token_id, bos_token_id = 256, None
        tokens: Sequence[bytes] = [*(bytes([byte]) for byte in range(256)), b"<end>"]
        special_token_ids: Sequence[int] = [256]

        def __call__(self, text: bytes) -> list[int]:
            return list(text)

    return LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=257, eos_token=256, slices=[])


def _library() -> Any:
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise UsageError(
            "Replies of a given form need the package llguidance, see llm help structured-output. "
            f"This installs it: {install_command('constrain')}"
        ) from None
    return LLMatcher
