"""The sampling flags of `generate`, `chat` and `batch`, and the `SamplingParams` that they give."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from llmcli.commands.shared.options.flags import MORE_SAMPLING, SAMPLING, flag, text
from llmcli.commands.shared.options.logit_bias import check_bias, token_biases

if TYPE_CHECKING:
    from llmcli.engine import SamplingParams
    from llmcli.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling flags as given; None where the user said nothing."""

    max_tokens: Annotated[
        int | None,
        flag(
            "--max-tokens",
            "-n",
            metavar="N",
            panel=SAMPLING,
            help="End the reply after N tokens. Default: as many as the context holds.",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        flag(
            "--temperature",
            "-t",
            panel=SAMPLING,
            help="Randomness; 0 takes the most probable token. Default: the model's own, else 0.8.",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        flag(
            "--top-k",
            panel=SAMPLING,
            help="Choose among the K most probable tokens; 0 is off. Default: the model's own, else 40.",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        flag(
            "--top-p",
            panel=SAMPLING,
            help="Choose among the fewest tokens that together reach P; 1 is off. Default: the model's own, else 0.95.",
        ),
    ] = None
    min_p: Annotated[
        float | None,
        flag(
            "--min-p",
            panel=SAMPLING,
            help="Drop tokens below this fraction of the best probability; 0 is off.",
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None,
        flag(
            "--repeat-penalty",
            panel=SAMPLING,
            help="Above 1, make tokens in the context less probable.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        flag(
            "--seed",
            panel=SAMPLING,
            help="Give the same text again on the same machine.",
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        flag(
            "--stop",
            metavar="TEXT",
            callback=text,
            panel=SAMPLING,
            help="End the reply before this text. Repeatable.",
        ),
    ] = None
    stop_in_thinking: Annotated[
        bool,
        flag(
            "--stop-in-thinking",
            panel=SAMPLING,
            help="Let --stop also end the reply inside the model's thoughts.",
        ),
    ] = False
    frequency_penalty: Annotated[
        float | None,
        flag(
            "--frequency-penalty",
            panel=MORE_SAMPLING,
            help="Subtract this from the logit of a token for each time that it is in the context; 0 is off.",
        ),
    ] = None
    presence_penalty: Annotated[
        float | None,
        flag(
            "--presence-penalty",
            panel=MORE_SAMPLING,
            help="Subtract this once from the logits of tokens that are in the context; 0 is off.",
        ),
    ] = None
    repeat_last_n: Annotated[
        int | None,
        flag(
            "--repeat-last-n",
            panel=MORE_SAMPLING,
            help="Apply the three penalties to the last N tokens. Default: -1, all of prompt and reply.",
        ),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        flag(
            "--dry-multiplier",
            panel=MORE_SAMPLING,
            help="DRY: penalize a token that continues a long repetition; 0 is off, 0.8 is usual.",
        ),
    ] = None
    dry_base: Annotated[
        float | None,
        flag(
            "--dry-base",
            panel=MORE_SAMPLING,
            help="DRY: multiply the penalty by this for each further token repeated. Default: 1.75.",
        ),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        flag(
            "--dry-allowed-length",
            panel=MORE_SAMPLING,
            help="DRY: allow repetitions shorter than N tokens. Default: 2.",
        ),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        flag(
            "--dry-penalty-last-n",
            panel=MORE_SAMPLING,
            help="DRY: look for repetitions in the last N tokens. Default: -1, all.",
        ),
    ] = None
    dry_sequence_breaker: Annotated[
        list[str] | None,
        flag(
            "--dry-sequence-breaker",
            metavar="TEXT",
            callback=text,
            panel=MORE_SAMPLING,
            help="DRY: end a repetition at tokens with this text, or none. Repeatable. Default: new "
            "line, colon, quotation mark, asterisk.",
        ),
    ] = None
    top_n_sigma: Annotated[
        float | None,
        flag(
            "--top-n-sigma",
            panel=MORE_SAMPLING,
            help="Choose among tokens whose logit is at most N standard deviations below the best; 0 is off.",
        ),
    ] = None
    dynatemp_range: Annotated[
        float | None,
        flag(
            "--dynatemp-range",
            panel=MORE_SAMPLING,
            help="Let the temperature follow the entropy, from R below it to R above; 0 is off.",
        ),
    ] = None
    dynatemp_exponent: Annotated[
        float | None,
        flag(
            "--dynatemp-exponent",
            panel=MORE_SAMPLING,
            help="Raise the entropy to this power for --dynatemp-range. Default: 1.",
        ),
    ] = None
    typical_p: Annotated[
        float | None,
        flag(
            "--typical-p",
            panel=MORE_SAMPLING,
            help="Choose among the most typical tokens that together reach P; 1 is off.",
        ),
    ] = None
    xtc_probability: Annotated[
        float | None,
        flag(
            "--xtc-probability",
            panel=MORE_SAMPLING,
            help="XTC: how often the most probable choices are left out, from 0 (off) to 1.",
        ),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        flag(
            "--xtc-threshold",
            panel=MORE_SAMPLING,
            help="XTC: leave out all but the least probable of the tokens above this probability. Default: 0.1.",
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        flag(
            "--logit-bias",
            metavar="TOKEN+BIAS|TOKEN-BIAS",
            callback=text,
            panel=MORE_SAMPLING,
            help="Add to the logit of a token, by its ID or text, as in 15043+1 or Hello-inf. Repeatable.",
        ),
    ] = None

    def check(self) -> None:
        """Raise `UsageError` for a value that makes no sense, before a model has been loaded."""
        for bias in self.logit_bias or ():
            check_bias(bias)
        self._params({}, ())

    def params(self, model_defaults: Mapping[str, float], tokenizer: "Tokenizer") -> "SamplingParams":
        """What the user said, else what the model's makers recommend, else our defaults; the seed is always drawn.

        Raises:
            UsageError: a value makes no sense, or is not for texts of `tokenizer`.
        """
        from llmcli.engine.sampler import sampler_for

        params = self._params(model_defaults, token_biases(self.logit_bias or (), tokenizer))
        # It raises what there is to be said of sequence breakers.
        sampler_for(params, tokenizer)
        return params

    def _params(self, model_defaults: Mapping[str, float], biases: tuple[tuple[int, float], ...]) -> "SamplingParams":
        from llmcli.engine.recommendations import recommended_params

        given: dict[str, Any] = {name: getattr(self, name) for name in FILTERS if getattr(self, name) is not None}
        if self.dry_sequence_breaker:
            texts = tuple(self.dry_sequence_breaker)
            given["dry_sequence_breakers"] = () if texts == ("none",) else texts
        given |= {"logit_bias": biases, "seed": self.seed, "max_tokens": self.max_tokens}
        ends = {"stop": tuple(self.stop or ()), "stop_in_thinking": self.stop_in_thinking}
        return recommended_params(model_defaults, {**given, **ends})


_OTHERS = ("max_tokens", "seed", "stop", "stop_in_thinking", "logit_bias", "dry_sequence_breaker")
FILTERS = tuple(each.name for each in fields(SamplingOptions) if each.name not in _OTHERS)
"""The filters with one number each, which have the same name in `SamplingParams`."""
