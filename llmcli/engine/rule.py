"""The form that a reply must have, as it is asked for. It needs no model and no torch, so it can be checked at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher

Kind: TypeAlias = Literal["json-schema", "regex", "grammar"]


@dataclass(frozen=True)
class Rule:
    """The form a reply must have."""

    kind: Kind
    text: str
    """A JSON schema, a regular expression, or a grammar in the Lark syntax of llguidance."""

    def check(self) -> list[str]:
        """Raise `UsageError` if it is not a rule; return what there is to be warned of."""
        failed, words = _library().validate_grammar_with_warnings(self._grammar())
        if failed:
            raise self._unusable(words[0])
        return [str(word) for word in words]

    def matcher(self, tokenizer: Any) -> LLMatcher:
        """What follows a text of this form, from its beginning; `tokenizer` is one of the library.

        Raises:
            UsageError: it is not a rule.
        """
        matcher: LLMatcher = _library()(tokenizer, self._grammar())
        if matcher.is_error():
            raise self._unusable(matcher.get_error())
        return matcher

    def _grammar(self) -> str:
        library = _library()
        if self.kind == "regex":
            return str(library.grammar_from_regex(self.text))
        if self.kind == "grammar":
            return str(library.grammar_from_lark(self.text))
        try:
            schema = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The --json-schema is not JSON: {error}.") from None
        if not isinstance(schema, dict):
            raise UsageError("The --json-schema must be a JSON object.")
        return str(library.grammar_from_json_schema(schema))

    def _unusable(self, why: str) -> UsageError:
        lines = [line.strip() for line in why.splitlines() if line.strip()]
        return UsageError(f"The --{self.kind} cannot be used: {' '.join(lines)[:500]}.")


def _library() -> Any:
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise UsageError(
            "Replies of a given form need the package llguidance: pip install 'llmcli[constrain]'."
        ) from None
    return LLMatcher
