"""A fact as token ids: a text, the position of its subject, and the answer that should follow."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from llmcli.errors import UsageError
from llmcli.inspection.causal.prompt_ablation import answer_ids, find_text
from llmcli.loaded_model import LoadedModel
from llmcli.text.chat.prompt import Message, encode_chat, encode_raw

# After these characters an answer has no space before it.
_OPENING = tuple("([{\"'“‘«„/-–—")


@dataclass(frozen=True)
class Passage:
    """A text that names the subject, and the tokens of an answer to it."""

    ids: tuple[int, ...]
    subject: int
    """Position of the subject's last token, where the model recalls facts about it (Meng et al. 2022, 2.3)."""
    answer: tuple[int, ...]


def passage(loaded: LoadedModel, text: str, subject: str, answer: str, *, question: str | None = None) -> Passage:
    """Encode `text` and its `answer`; with a `question`, `text` begins the reply to it in the model's chat template.

    Raises:
        UsageError: the text does not contain the subject, or the answer is empty.
    """
    text, answer = text.rstrip(), spaced(text, answer)
    if not subject.strip():
        raise UsageError("The subject is empty. Give the words of the prompt that name what the fact is about.")
    if subject not in text:
        raise UsageError(f'The prompt "{text}" does not contain the subject "{subject}". Spell it as in the prompt.')
    if question is None or loaded.template is None:
        ids = encode_raw(loaded.tokenizer, text)
    else:
        ids = encode_chat(loaded.tokenizer, loaded.template, [Message("user", question)], prefill=text)
    at = find_text(loaded.tokenizer, ids, subject)[-1]
    return Passage(tuple(ids), at, tuple(answer_ids(loaded.tokenizer, answer)))


def spaced(text: str, answer: str) -> str:
    """`answer` as a continuation of `text` (its trailing spaces removed), with a leading space where one belongs.

    Raises:
        UsageError: the answer is empty.
    """
    answer = answer.strip()
    if not answer:
        raise UsageError("The new answer is empty. Give the word or words that should follow the prompt.")
    text = text.rstrip()
    joined = not text or text.endswith(_OPENING) or unicodedata.east_asian_width(answer[0]) in "WF"
    return answer if joined else " " + answer
