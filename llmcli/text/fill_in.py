"""Fill in the middle: code models are trained to generate the text between a prefix and a suffix.

Their control tokens for it are found by spelling, by role in the tokenizer's settings (`prefix_token`, `suffix_token`,
`middle_token`), and by the keys of GGUF files. Most models read the prefix, the suffix, and the token after which they
write the middle; some read the suffix first.
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
    # Codestral: the middle follows the prefix without a token in between.
    ("[PREFIX]", "[SUFFIX]", None),
)
_ROLES = ("prefix_token", "suffix_token", "middle_token")
# Tokens that models generate after the middle: its end, the end of the text, or the beginning of another file.
_ENDS = (
    *("▁<EOT>", "<EOT>", "<|EOT|>", "<|endoftext|>", "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "[MIDDLE]"),
    *("<|file_sep|>", "<|file_separator|>", "<file_sep>", "<|repo_name|>", "<repo_name>", "<reponame>", "<|reponame|>"),
    *("<filename>", "<|filename|>", "<gh_stars>"),
)
_END_ROLES = ("eot_token", "fim_pad_token", "fim_rep_token", "fim_sep_token")


@dataclass(frozen=True)
class FillIn:
    """The control tokens and the layout of a model's fill-in-the-middle prompt."""

    prefix: int
    """The token before the prefix text."""
    suffix: int
    """The token before the suffix text."""
    middle: int | None
    """The token after both, after which the model writes; None if the model continues after the prefix."""
    suffix_first: bool
    ends: frozenset[int]
    """Tokens that end the middle, in addition to those that end a reply."""

    def ids(self, tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
        """The prompt for the gap between `prefix` and `suffix`; spellings of control tokens in them are text.

        The prefix is encoded as the beginning of a text (with the leading space that some tokenizers add), the suffix
        as a continuation.
        """
        before = [self.prefix, *tokenizer.encode(prefix, add_special_tokens=False)]
        behind = [self.suffix, *tokenizer.encode_segments([TextSegment(suffix, trusted=False)], continuation=True)]
        parts = [*behind, *before] if self.suffix_first else [*before, *behind]
        return [*tokenizer.beginning, *parts, *([] if self.middle is None else [self.middle])]


def fill_in_of(tokenizer: Tokenizer, *, name: str) -> FillIn:
    """The fill-in-the-middle format of the model `name`, from its tokenizer.

    Raises:
        UsageError: the vocabulary has no tokens for it.
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
        f"{name} was not trained to fill in: its vocabulary has no control tokens for it, such as <|fim_prefix|>, "
        "<|fim_suffix|> and <|fim_middle|>. Use a code model that has them."
    )


def _ends(tokenizer: Tokenizer, markers: Collection[int | None]) -> frozenset[int]:
    known = {_control(tokenizer, text) for text in _ENDS} | {_with_role(tokenizer, role) for role in _END_ROLES}
    return frozenset(token for token in {*known, *markers} if token is not None)


def _control(tokenizer: Tokenizer, spelling: str | None) -> int | None:
    """The control token with this spelling; None for ordinary vocabulary."""
    token = None if spelling is None else tokenizer.token_to_id(spelling)
    return token if token is not None and tokenizer.is_guarded(token) else None


def _with_role(tokenizer: Tokenizer, role: str) -> int | None:
    spelling = tokenizer.special_tokens.get(role)
    return None if spelling is None else tokenizer.token_to_id(spelling)
