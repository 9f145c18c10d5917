"""A fact as token ids: a text that names a subject, where that is, and what is to follow the text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from llmcli.api import LoadedModel
from llmcli.errors import UsageError
from llmcli.inspection.causal.prompt_ablation import answer_ids, find_text
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw

# After these an answer begins without a space.
_OPENING = tuple("([{\"'“‘«„/-–—")


@dataclass(frozen=True)
class Passage:
    """A text that names the subject, and the tokens of an answer to it."""

    ids: tuple[int, ...]
    subject: int
    """The position of the subject's last token, where the model keeps what it knows of it (Meng et al. 2022, 2.3)."""
    answer: tuple[int, ...]


def passage(loaded: LoadedModel, text: str, subject: str, answer: str, *, question: str | None = None) -> Passage:
    """`text` and its `answer`; with a `question`, as the beginning of the reply to it in the model's chat template.

    Raises:
        UsageError: the text does not name the subject, or there is no answer.
    """
    text, answer = text.rstrip(), spaced(text, answer)
    if not subject.strip():
        raise UsageError("The subject is empty. Give the words of the prompt that name what the fact is about.")
    if subject not in text:
        raise UsageError(f'The prompt "{text}" does not contain the subject "{subject}". Write it as it stands there.')
    if question is None or loaded.template is None:
        ids = encode_raw(loaded.tokenizer, text)
    else:
        ids = encode_chat(loaded.tokenizer, loaded.template, [Message("user", question)], prefill=text)
    at = find_text(loaded.tokenizer, ids, subject)[-1]
    return Passage(tuple(ids), at, tuple(answer_ids(loaded.tokenizer, answer)))


def spaced(text: str, answer: str) -> str:
    """`answer` as it goes on after `text` without the spaces at that's end: with a space, unless none belongs there.

    Raises:
        UsageError: it is empty.
    """
    answer = answer.strip()
    if not answer:
        raise UsageError("The new answer is empty. Give the word or words that are to follow the prompt.")
    text = text.rstrip()
    joined = not text or text.endswith(_OPENING) or unicodedata.east_asian_width(answer[0]) in "WF"
    return answer if joined else " " + answer
