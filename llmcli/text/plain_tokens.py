"""Telling added tokens that are text from those that steer the model.

Text from outside yields the former, as in the training texts, and never the latter. Vocabularies do not say which is
which: DeepSeek's first ones have letters (`ü`, `ö`, `ø`, `ú`) as added tokens, Gemma's have HTML tags, and Qwen's have
`<tool_call>`, all of them with `special: false`. So a token is text only if its spelling leaves no doubt.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from contextlib import suppress

from tokenizers import AddedToken

from llmcli.errors import LlmcliError
from llmcli.text.chat_template.template import ChatTemplate
from llmcli.text.token_bytes import SPACE

_TAG = re.compile(r"</?([a-z][a-z0-9]*)>")
# Elements that format text. Others (`output`, `search`, `audio`, ...) are names that control tokens have, too.
_HTML = frozenset(
    (  # noqa: SIM905
        "a abbr b blockquote body br caption center code col colgroup dd del div dl dt em figcaption figure footer "
        "h1 h2 h3 h4 h5 h6 head hr html i iframe img ins kbd li ol p pre q samp section small span strike strong sub "
        "sup table tbody td tfoot th thead tr tt u ul var"
    ).split()
)
# Strikethrough in HTML, but in most vocabularies the ends of a text: a tag only among other tags.
_STRUCK, _OTHER_TAG = "s", "<b>"
# What may stand inside of a word, or behind it.
_IN_WORDS = frozenset(" .,'’-–·+#&/%")
_BRACKETS = frozenset("<>|｜[]{}()_⟨⟩〈〉《》「」【】«»‹›")
_JOINERS = frozenset("\u200c\u200d")
# Conversations that are refused by few templates, and together have all ordinary roles.
_CONVERSATIONS = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))
_SAID = "\ue000"


def plain_tokens(
    added: Mapping[int, AddedToken],
    *,
    named: Collection[str],
    templates: Collection[str],
    special_tokens: Mapping[str, str] | None = None,
) -> frozenset[int]:
    """The ids of the `added` tokens that are text.

    Whitespace, and what is spelled as words, as punctuation or as an HTML tag; but no token that is marked as special,
    that is among the `named` ones (those with a role), or that one of the chat `templates` writes: it is in its source,
    or in what it makes of a conversation, for which it is given the `special_tokens` by role. A single letter in a
    template is no sign of anything.
    """
    spellings = {token.content for token in added.values()}

    def is_plain(token: AddedToken) -> bool:
        content = token.content
        if token.special or content.replace(SPACE, " ").isspace():
            return not token.special
        if content in named or not (_is_tag(content, spellings) or _is_words(content) or _is_punctuation(content)):
            return False
        return len(content) == 1 or not any(content in template for template in templates)

    plain = frozenset(index for index, token in added.items() if is_plain(token))
    # Few vocabularies have tokens for which a template must be compiled.
    doubtful = {index for index in plain if len(added[index].content) > 1 and not added[index].content.isspace()}
    written = _written(templates, special_tokens or {}) if doubtful else ""
    return plain - {index for index in doubtful if added[index].content in written}


def _written(templates: Collection[str], special_tokens: Mapping[str, str]) -> str:
    """What `templates` put around the messages of short conversations, names of roles too; damaged ones put nothing."""
    found = []
    for source in templates:
        template = ChatTemplate(source, special_tokens=special_tokens)
        for roles in _CONVERSATIONS:
            with suppress(LlmcliError):
                found.append(template.render([{"role": role, "content": _SAID} for role in roles]))
    return _SAID.join(found)


def _is_tag(content: str, spellings: Collection[str]) -> bool:
    match = _TAG.fullmatch(content)
    return match is not None and (match[1] in _HTML or (match[1] == _STRUCK and _OTHER_TAG in spellings))


def _is_words(content: str) -> bool:
    """Whether it is letters and digits, and between and behind them what words have there."""
    kinds = [(char, unicodedata.category(char)[0]) for char in content.replace(SPACE, " ").strip()]
    return (
        bool(kinds)
        and kinds[0][1] in "LN"
        and all(kind in "LNM" or char in _IN_WORDS or char in _JOINERS for char, kind in kinds)
    )


def _is_punctuation(content: str) -> bool:
    """Whether it is signs and symbols, emoji too, without a bracket or anything else that marks."""
    kinds = [(char, unicodedata.category(char)[0]) for char in content.replace(SPACE, " ").strip()]
    return (
        bool(kinds)
        and kinds[0][1] in "PS"
        and all(kind in "PSM" or char == " " or char in _JOINERS for char, kind in kinds)
        and _BRACKETS.isdisjoint(content)
    )
