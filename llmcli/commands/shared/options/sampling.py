"""The sampling flags of `generate`, `chat` and `batch`, and their conversion to `SamplingParams`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from llmcli.commands.shared.options.flags import MORE_SAMPLING, SAMPLING, flag, text
from llmcli.engine.sampling.logit_bias import check_bias, token_biases

if TYPE_CHECKING:
    from llmcli.engine import SamplingParams
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling flags as given; None where the user gave none. Fields are described in `SamplingParams`."""

    max_tokens: Annotated[
        int | None,
        flag("--max-tokens", "-n", panel=SAMPLING, help="End the reply after N tokens.", metavar="N"),
    ] = None
    temperature: Annotated[
        float | None,
        flag(
            "--temperature",
            "-t",
            panel=SAMPLING,
            help="Randomness; 0 takes the most probable token. Default: 0.8.",
            metavar="T",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        flag("--top-k", panel=SAMPLING, help="Keep the K most probable tokens; 0 is off. Default: 40.", metavar="K"),
    ] = None
    top_p: Annotated[
        float | None,
        flag(
            "--top-p",
            panel=SAMPLING,
            help="Keep the fewest tokens that reach P together; 1 is off. Default: 0.95.",
            metavar="P",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        flag("--min-p", panel=SAMPLING, help="Drop tokens below P times the best probability; 0 is off.", metavar="P"),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        flag(
            "--repeat-penalty",
            panel=SAMPLING,
            help="Above 1: make tokens of the text so far less probable.",
            metavar="X",
        ),
    ] = None
    seed: Annotated[
        int | None,
        flag("--seed", panel=SAMPLING, help="Random seed, for the same text again.", metavar="N"),
    ] = None
    stop: Annotated[
        list[str] | None,
        flag(
            "--stop",
            metavar="TEXT",
            callback=text,
            panel=SAMPLING,
            help="End before this text; repeatable.",
        ),
    ] = None
    stop_in_thinking: Annotated[
        bool,
        flag(
            "--stop-in-thinking",
            panel=SAMPLING,
            help="Obey --stop in the model's thoughts too.",
        ),
    ] = False
    frequency_penalty: Annotated[
        float | None,
        flag(
            "--frequency-penalty",
            panel=MORE_SAMPLING,
            help="Subtract X from a logit for each time the token occurred; 0 is off.",
            metavar="X",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        flag(
            "--presence-penalty",
            panel=MORE_SAMPLING,
            help="Subtract X once from logits of tokens that occurred; 0 is off.",
            metavar="X",
        ),
    ] = None
    repeat_last_n: Annotated[
        int | None,
        flag(
            "--repeat-last-n",
            panel=MORE_SAMPLING,
            help="Look at the last N tokens for the three penalties. Default: all.",
            metavar="N",
        ),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        flag(
            "--dry-multiplier",
            panel=MORE_SAMPLING,
            help="DRY: penalize long repetitions; 0 is off, 0.8 is usual.",
            metavar="X",
        ),
    ] = None
    dry_base: Annotated[
        float | None,
        flag(
            "--dry-base",
            panel=MORE_SAMPLING,
            help="DRY: growth of the penalty for each further token. Default: 1.75.",
            metavar="X",
        ),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        flag(
            "--dry-allowed-length",
            panel=MORE_SAMPLING,
            help="DRY: allow repetitions of fewer than N tokens. Default: 2.",
            metavar="N",
        ),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        flag(
            "--dry-penalty-last-n",
            panel=MORE_SAMPLING,
            help="DRY: look at the last N tokens. Default: all.",
            metavar="N",
        ),
    ] = None
    dry_sequence_breaker: Annotated[
        list[str] | None,
        flag(
            "--dry-sequence-breaker",
            metavar="TEXT",
            callback=text,
            panel=MORE_SAMPLING,
            help="DRY: text that ends a repetition, or none; repeatable.",
        ),
    ] = None
    top_n_sigma: Annotated[
        float | None,
        flag(
            "--top-n-sigma",
            panel=MORE_SAMPLING,
            help="Keep logits within N standard deviations of the best; 0 is off.",
            metavar="N",
        ),
    ] = None
    dynatemp_range: Annotated[
        float | None,
        flag(
            "--dynatemp-range",
            panel=MORE_SAMPLING,
            help="Vary the temperature by up to R with the entropy; 0 is off.",
            metavar="R",
        ),
    ] = None
    dynatemp_exponent: Annotated[
        float | None,
        flag(
            "--dynatemp-exponent",
            panel=MORE_SAMPLING,
            help="Power of the entropy for --dynatemp-range. Default: 1.",
            metavar="E",
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        flag(
            "--typical-p",
            panel=MORE_SAMPLING,
            help="Keep the most typical tokens that reach P together; 1 is off.",
            metavar="P",
        ),
    ] = None
    xtc_probability: Annotated[
        float | None,
        flag(
            "--xtc-probability",
            panel=MORE_SAMPLING,
            help="XTC: how often to drop the top tokens, from 0 (off) to 1.",
            metavar="P",
        ),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        flag(
            "--xtc-threshold",
            panel=MORE_SAMPLING,
            help="XTC: of the tokens above P, keep the least probable. Default: 0.1.",
            metavar="P",
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        flag(
            "--logit-bias",
            callback=text,
            panel=MORE_SAMPLING,
            help="Add X to a token's logit, as in 15043+1 or Hello-inf; repeatable.",
            metavar="TOKEN+X",
        ),
    ] = None

    def check(self) -> None:
        """Raise `UsageError` for an invalid value; needs no model."""
        for bias in self.logit_bias or ():
            check_bias(bias)
        self._params({}, ())

    def params(self, model_defaults: Mapping[str, float], tokenizer: "Tokenizer") -> "SamplingParams":
        """The value of each setting: the user's, else the model's recommended one, else our default.

        A seed that the user does not give is drawn at random.

        Raises:
            UsageError: a value is invalid, or names texts that are not tokens of `tokenizer`.
        """
        from llmcli.engine.sampling.sequence_breakers import breakers_of

        params = self._params(model_defaults, token_biases(self.logit_bias or (), tokenizer))
        # Only to check the sequence breakers.
        breakers_of(params, tokenizer)
        return params

    def settings(self) -> dict[str, Any]:
        """The fields of `SamplingParams` that the user gave, without `logit_bias`, which needs the model's tokens."""
        given: dict[str, Any] = {name: getattr(self, name) for name in FILTERS if getattr(self, name) is not None}
        if self.dry_sequence_breaker:
            texts = tuple(self.dry_sequence_breaker)
            given["dry_sequence_breakers"] = () if texts == ("none",) else texts
        given |= {"seed": self.seed, "max_tokens": self.max_tokens}
        return given | {"stop": tuple(self.stop or ()), "stop_in_thinking": self.stop_in_thinking}

    def _params(self, model_defaults: Mapping[str, float], biases: tuple[tuple[int, float], ...]) -> "SamplingParams":
        from llmcli.engine.sampling.recommendations import recommended_params

        return recommended_params(model_defaults, {**self.settings(), "logit_bias": biases})


_OTHERS = ("max_tokens", "seed", "stop", "stop_in_thinking", "logit_bias", "dry_sequence_breaker")
FILTERS = tuple(each.name for each in fields(SamplingOptions) if each.name not in _OTHERS)
"""The settings with one number each, which have the same names in `SamplingParams`."""
