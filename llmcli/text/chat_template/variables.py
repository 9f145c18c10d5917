"""Chat template variables set by the user: parsing their values, and checking that the template reads them."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcli.text.chat_template.template import ChatTemplate

# Spellings in JSON, Python and YAML 1.2 (core schema, section 10.3.2). YAML 1.1's yes, no, on and off stay strings, and
# so does "none": templates have variables with values such as reasoning_effort=none.
_WORDS: dict[str, object] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "None", "~"), None),
}
# A number with leading zeros is more likely a code than a number.
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 300

# Variables that every conversation has.
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now", "namespace")
_MAPPING_NAMES = ("chat_template_kwargs", "kwargs")
"""Names of a mapping of all user variables that some templates read."""
# Access to one variable in it: `kwargs.get('name')`, `kwargs['name']`, `kwargs.name`.
_FROM_MAPPING = re.compile(
    rf"\b(?:{'|'.join(_MAPPING_NAMES)})(?:(?:\.get\(|\[)\s*['\"](\w+)['\"]|\.(?!(?:get|items|keys|values)\b)(\w+))"
)
_MOST_NAMES = 8


def template_value(text: str) -> object:
    """Parse the value of a variable: as JSON, Python or YAML if possible, else the string itself."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _LONGEST_NUMBER and _WHOLE.fullmatch(text):
        return int(text, 0)
    if len(text) <= _LONGEST_NUMBER and _DECIMAL.fullmatch(text):
        number = float(text)
        return number if abs(number) != float("inf") else text
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        pass
    if text[:1] not in ("[", "{"):
        return text
    try:
        value = ast.literal_eval(text)
        # Reject values that JSON lacks, such as sets, which no template expects.
        json.dumps(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
    return value


def with_kwargs_mapping(template: ChatTemplate, arguments: Mapping[str, object]) -> Mapping[str, object]:
    """The variables, plus a mapping of all of them under each name by which the template reads such a mapping."""
    names = [name for name in _MAPPING_NAMES if arguments and name not in arguments and name in template.source]
    return {**arguments, **{name: dict(arguments) for name in names}} if names else arguments


def unread_note(template: ChatTemplate, arguments: Mapping[str, object]) -> str | None:
    """A note on the variables that the template never reads, with similar names that it does read; or None.

    Raises:
        CheckpointError: the template is not valid Jinja.
    """
    unread = [name for name in arguments if not is_read(template, name)] if arguments else []
    if not unread:
        return None
    names = template.variables - {*_GIVEN, *_MAPPING_NAMES} - template.special_tokens.keys()
    names |= {first or second for first, second in _FROM_MAPPING.findall(template.source)}
    near = {name: difflib.get_close_matches(name, names, n=1) for name in unread}
    named = [f"{name!r}" + (f" (did you mean {near[name][0]!r}?)" if near[name] else "") for name in unread]
    sentence = f"The chat template {template.name!r} does not read {' and '.join(named)}, set by --template-arg."
    if all(near.values()):
        return sentence
    return f"{sentence} {_known(template, names)}"


def is_read(template: ChatTemplate, name: str) -> bool:
    """Whether the template reads a variable of this name."""
    if name in template.variables:
        return True
    if template.variables.isdisjoint(_MAPPING_NAMES):
        return False
    return re.search(rf"(?:\.|['\"]){re.escape(name)}\b", template.source) is not None


def _known(template: ChatTemplate, names: Collection[str]) -> str:
    # Names that it also sets are usually internal, only read before they are set in some branch.
    own = set(re.findall(r"\b(?:set|for)\s+(\w+)", template.source))
    read = sorted(set(names) - own)[:_MOST_NAMES]
    return f"It reads {', '.join(read)}." if read else "It reads no variables besides the conversation."


def _no_json(constant: str) -> object:
    raise ValueError(f"{constant} is Python's, not JSON")
