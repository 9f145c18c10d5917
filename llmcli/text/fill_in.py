"""Filling a gap in a text: models of code are trained to write what comes between a prefix and a suffix.

They have control tokens for it, which this module knows by their spellings, by their roles in a tokenizer's settings
(`prefix_token`, `suffix_token`, `middle_token`), and by the keys of GGUF files. Most models are given the prefix first,
then the suffix, then the token behind which they write the middle; some are given the suffix first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from llmcli.errors import UsageError
from llmcli.text.tokenizer import Tokenizer
from llmcli.text.trusted_encoding import TextSegment

# Prefix, suffix and middle.
_PREFIX_FIRST = (
    # Qwen-Coder, CodeGemma, Granite 4.
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # StarCoder, Granite Code, Stable Code; SantaCoder.
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    # DeepSeek-Coder.
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # Code Llama, as its tokenizer.model and as some conversions spell them.
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    # GLM 4.5.
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
_SUFFIX_FIRST = (
    # Seed-Coder.
    ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
    # Codestral: the middle follows the prefix without a token between.
    ("[PREFIX]", "[SUFFIX]", None),
)
_ROLES = ("prefix_token", "suffix_token", "middle_token")
# What models write when the middle is done: ends of it, of the text, and the beginning of another file.
_ENDS = (
    *("▁<EOT>", "<EOT>", "<|EOT|>", "<|endoftext|>", "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "[MIDDLE]"),
    *("<|file_sep|>", "<|file_separator|>", "<file_sep>", "<|repo_name|>", "<repo_name>", "<reponame>", "<|reponame|>"),
    *("<filename>", "<|filename|>", "<gh_stars>"),
)
_END_ROLES = ("eot_token", "fim_pad_token", "fim_rep_token", "fim_sep_token")


@dataclass(frozen=True)
class FillIn:
    """How a model is asked to fill a gap."""

    prefix: int
    """The token before the text in front of the gap."""
    suffix: int
    """The token before the text behind the gap."""
    middle: int | None
    """The token behind both, after which the model writes; None if it goes on behind the prefix."""
    suffix_first: bool
    ends: frozenset[int]
    """Tokens that end what it writes, besides those that end a reply."""

    def ids(self, tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
        """The prompt for the gap between `prefix` and `suffix`, in which what spells a control token is text.

        The prefix begins a text, also where the tokenizer puts a space in front of one; the suffix goes on with it.
        """
        before = [self.prefix, *tokenizer.encode(prefix, add_special_tokens=False)]
        behind = [self.suffix, *tokenizer.encode_segments([TextSegment(suffix, trusted=False)], continuation=True)]
        parts = [*behind, *before] if self.suffix_first else [*before, *behind]
        return [*tokenizer.beginning, *parts, *([] if self.middle is None else [self.middle])]


def fill_in_of(tokenizer: Tokenizer, *, name: str) -> FillIn:
    """How the model `name` with this tokenizer fills a gap.

    Raises:
        UsageError: the vocabulary has no tokens for that.
    """
    layouts = [(tokens, False) for tokens in _PREFIX_FIRST] + [(tokens, True) for tokens in _SUFFIX_FIRST]
    for spellings, suffix_first in layouts:
        prefix, suffix, middle = (_control(tokenizer, text) for text in spellings)
        if prefix is not None and suffix is not None and (middle is not None or spellings[2] is None):
            return FillIn(prefix, suffix, middle, suffix_first, _ends(tokenizer, (prefix, suffix, middle)))
    prefix, suffix, middle = (_with_role(tokenizer, role) for role in _ROLES)
    if prefix is not None and suffix is not None and middle is not None:
        return FillIn(prefix, suffix, middle, False, _ends(tokenizer, (prefix, suffix, middle)))
    raise UsageError(
        f"{name} was not made to fill in: its vocabulary has no control tokens for the text before a gap, the text "
        "behind it and the gap, such as <|fim_prefix|>, <|fim_suffix|> and <|fim_middle|>. Models of code have them."
    )


def _ends(tokenizer: Tokenizer, markers: Collection[int | None]) -> frozenset[int]:
    known = {_control(tokenizer, text) for text in _ENDS} | {_with_role(tokenizer, role) for role in _END_ROLES}
    return frozenset(token for token in {*known, *markers} if token is not None)


def _control(tokenizer: Tokenizer, spelling: str | None) -> int | None:
    """The control token of that spelling; ordinary vocabulary does not count."""
    token = None if spelling is None else tokenizer.token_to_id(spelling)
    return token if token is not None and tokenizer.is_guarded(token) else None


def _with_role(tokenizer: Tokenizer, role: str) -> int | None:
    spelling = tokenizer.special_tokens.get(role)
    return None if spelling is None else tokenizer.token_to_id(spelling)
