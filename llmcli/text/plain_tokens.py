"""Distinguish added tokens that are plain text from those that control the model.

Untrusted text may be encoded to the former, as in training, but never to the latter. Vocabularies do not mark the
difference: DeepSeek's first ones have letters (`ü`, `ö`, `ø`, `ú`) as added tokens, Gemma's have HTML tags, and Qwen's
have `<tool_call>`, all with `special: false`. So a token counts as text only if its spelling is unambiguous.
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
# Elements that format text. Others (`output`, `search`, `audio`, ...) are also names of control tokens.
_HTML = frozenset(
    (  # noqa: SIM905
        "a abbr b blockquote body br caption center code col colgroup dd del div dl dt em figcaption figure footer "
        "h1 h2 h3 h4 h5 h6 head hr html i iframe img ins kbd li ol p pre q samp section small span strike strong sub "
        "sup table tbody td tfoot th thead tr tt u ul var"
    ).split()
)
# <s> is strikethrough in HTML, but BOS in most vocabularies: count it as a tag only if other tags are present.
_STRIKETHROUGH, _OTHER_TAG = "s", "<b>"
# Characters that may be inside or after a word.
_IN_WORDS = frozenset(" .,'’-–·+#&/%")
_BRACKETS = frozenset("<>|｜[]{}()_⟨⟩〈〉《》「」【】«»‹›")
_JOINERS = frozenset("\u200c\u200d")
# Conversations that most templates accept, and that together have all ordinary roles.
_CONVERSATIONS = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))
_CONTENT = "\ue000"


def plain_tokens(
    added: Mapping[int, AddedToken],
    *,
    named: Collection[str],
    templates: Collection[str],
    special_tokens: Mapping[str, str] | None = None,
) -> frozenset[int]:
    """The ids of the `added` tokens that are plain text.

    These are white space, words, punctuation and HTML tags. Excluded are tokens that are marked as special, that have
    a role (`named`), or that a chat template writes: in its source or in a rendered conversation, for which it gets the
    `special_tokens` by role. A single letter in a template's source does not count.
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
    # Compile templates only for the few vocabularies that have such tokens.
    doubtful = {index for index in plain if len(added[index].content) > 1 and not added[index].content.isspace()}
    written = _written(templates, special_tokens or {}) if doubtful else ""
    return plain - {index for index in doubtful if added[index].content in written}


def _written(templates: Collection[str], special_tokens: Mapping[str, str]) -> str:
    """The text that `templates` write around the messages of short conversations; damaged templates are skipped."""
    found = []
    for source in templates:
        template = ChatTemplate(source, special_tokens=special_tokens)
        for roles in _CONVERSATIONS:
            with suppress(LlmcliError):
                found.append(template.render([{"role": role, "content": _CONTENT} for role in roles]))
    return _CONTENT.join(found)


def _is_tag(content: str, spellings: Collection[str]) -> bool:
    match = _TAG.fullmatch(content)
    return match is not None and (match[1] in _HTML or (match[1] == _STRIKETHROUGH and _OTHER_TAG in spellings))


def _is_words(content: str) -> bool:
    """Whether it begins with a letter or digit and has only characters of words."""
    kinds = [(char, unicodedata.category(char)[0]) for char in content.replace(SPACE, " ").strip()]
    return (
        bool(kinds)
        and kinds[0][1] in "LN"
        and all(kind in "LNM" or char in _IN_WORDS or char in _JOINERS for char, kind in kinds)
    )


def _is_punctuation(content: str) -> bool:
    """Whether it is only punctuation and symbols (including emoji), without brackets, which enclose control tokens."""
    kinds = [(char, unicodedata.category(char)[0]) for char in content.replace(SPACE, " ").strip()]
    return (
        bool(kinds)
        and kinds[0][1] in "PS"
        and all(kind in "PSM" or char == " " or char in _JOINERS for char, kind in kinds)
        and _BRACKETS.isdisjoint(content)
    )
