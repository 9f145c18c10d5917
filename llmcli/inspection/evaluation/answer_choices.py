"""The probabilities of the answers of a multiple choice, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from llmcli.inspection.core.tokens import Token


@dataclass(frozen=True)
class AnswerChoice:
    """One answer and its probability."""

    text: str
    prob: float
    """Its probability divided by the sum over all given answers, 0 to 1."""
    logprob: float
    """Log-probability in nats of the whole answer, including its end if that counts."""
    end_logprob: float | None
    """Log-probability that the reply ends after it, included in `logprob`; None if its end does not count."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class AnswerChoices:
    """The answers, the most probable first."""

    choices: tuple[AnswerChoice, ...]
    covered: float
    """Probability that the unconstrained model gives one of them, 0 to 1."""
    prompt_tokens: int
    read_tokens: int
    """Tokens run through the model, including the prompt: prefixes shared by answers are read once."""
    path: str
    """The implementation that ran."""
