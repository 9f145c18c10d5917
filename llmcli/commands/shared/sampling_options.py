"""The flags of sampling that `generate`, `chat` and `batch` share, and how they become settings of a reply."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

from llmcli.commands.shared.logit_bias import check_bias, token_biases
from llmcli.commands.shared.options import text

if TYPE_CHECKING:
    from llmcli.engine import SamplingParams
    from llmcli.text.tokenizer import Tokenizer

_SAMPLING, _MORE = "Sampling", "Sampling: more filters"

MaxTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        "-n",
        "--max-new-tokens",
        envvar="LLMCLI_MAX_TOKENS",
        metavar="N",
        rich_help_panel=_SAMPLING,
        help="End the reply after N tokens. Default: as many as the context holds.",
    ),
]
Temperature: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        "--temp",
        envvar="LLMCLI_TEMPERATURE",
        rich_help_panel=_SAMPLING,
        help="0 always takes the most probable token. Default: the model's own, else 0.8.",
    ),
]
TopK: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        envvar="LLMCLI_TOP_K",
        rich_help_panel=_SAMPLING,
        help="Choose among the K most probable tokens; 0 is off. Default: the model's own, else 40.",
    ),
]
TopP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        envvar="LLMCLI_TOP_P",
        rich_help_panel=_SAMPLING,
        help="Choose among the fewest tokens that together reach P; 1 is off. Default: the model's own, else 0.95.",
    ),
]
MinP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--min-p",
        envvar="LLMCLI_MIN_P",
        rich_help_panel=_SAMPLING,
        help="Drop tokens below this fraction of the best one's probability; 0 is off.",
    ),
]
RepeatPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--repeat-penalty",
        envvar="LLMCLI_REPEAT_PENALTY",
        rich_help_panel=_SAMPLING,
        help="Above 1, tokens already in the context become less probable.",
    ),
]
Seed: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--seed",
        envvar="LLMCLI_SEED",
        rich_help_panel=_SAMPLING,
        help="The same seed gives the same text on the same machine.",
    ),
]
Stop: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--stop",
        envvar="LLMCLI_STOP",
        metavar="TEXT",
        callback=text,
        rich_help_panel=_SAMPLING,
        help="End the reply before this text. May be given several times.",
    ),
]
StopInThinking: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--stop-in-thinking",
        envvar="LLMCLI_STOP_IN_THINKING",
        rich_help_panel=_SAMPLING,
        help="A --stop also ends the reply inside the model's thoughts, not only in its answer.",
    ),
]
FrequencyPenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--frequency-penalty",
        envvar="LLMCLI_FREQUENCY_PENALTY",
        rich_help_panel=_MORE,
        help="Subtract this from the logit of a token for each time that it is in the context; 0 is off.",
    ),
]
PresencePenalty: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--presence-penalty",
        envvar="LLMCLI_PRESENCE_PENALTY",
        rich_help_panel=_MORE,
        help="Subtract this once from the logits of tokens that are in the context; 0 is off.",
    ),
]
RepeatLastN: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--repeat-last-n",
        envvar="LLMCLI_REPEAT_LAST_N",
        rich_help_panel=_MORE,
        help="How many of the last tokens the three penalties look at. Default: -1, all of the prompt and the reply.",
    ),
]
DryMultiplier: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--dry-multiplier",
        envvar="LLMCLI_DRY_MULTIPLIER",
        rich_help_panel=_MORE,
        help="DRY: the penalty for a token that continues a repetition of the allowed length; 0 is off, 0.8 is usual.",
    ),
]
DryBase: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--dry-base",
        envvar="LLMCLI_DRY_BASE",
        rich_help_panel=_MORE,
        help="DRY: multiply the penalty by this for each further token repeated. Default: 1.75.",
    ),
]
DryAllowedLength: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--dry-allowed-length",
        envvar="LLMCLI_DRY_ALLOWED_LENGTH",
        rich_help_panel=_MORE,
        help="DRY: how long a repetition has to be for a penalty. Default: 2 tokens.",
    ),
]
DryPenaltyLastN: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--dry-penalty-last-n",
        envvar="LLMCLI_DRY_PENALTY_LAST_N",
        rich_help_panel=_MORE,
        help="DRY: in how many of the last tokens repetitions are looked for. Default: -1, all.",
    ),
]
DrySequenceBreaker: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--dry-sequence-breaker",
        envvar="LLMCLI_DRY_SEQUENCE_BREAKER",
        metavar="TEXT",
        callback=text,
        rich_help_panel=_MORE,
        help="DRY: a token with this text in it ends a repetition; none is no text. May be given several times. "
        "Default: a new line, colon, quotation mark and asterisk.",
    ),
]
TopNSigma: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--top-n-sigma",
        "--top-nsigma",
        envvar="LLMCLI_TOP_N_SIGMA",
        rich_help_panel=_MORE,
        help="Choose among tokens whose logit is at most N standard deviations below the best; 0 is off.",
    ),
]
DynatempRange: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--dynatemp-range",
        envvar="LLMCLI_DYNATEMP_RANGE",
        rich_help_panel=_MORE,
        help="Let the temperature follow the entropy, from R less to R more than it is; 0 is off.",
    ),
]
DynatempExponent: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--dynatemp-exponent",
        "--dynatemp-exp",
        envvar="LLMCLI_DYNATEMP_EXPONENT",
        rich_help_panel=_MORE,
        help="The power of the entropy that the temperature follows. Default: 1.",
    ),
]
TypicalP: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--typical-p",
        "--typical",
        envvar="LLMCLI_TYPICAL_P",
        rich_help_panel=_MORE,
        help="Choose among the most typical tokens that together reach P; 1 is off.",
    ),
]
XtcProbability: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--xtc-probability",
        envvar="LLMCLI_XTC_PROBABILITY",
        rich_help_panel=_MORE,
        help="XTC: how often the most probable choices are left out, from 0 (off) to 1.",
    ),
]
XtcThreshold: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--xtc-threshold",
        envvar="LLMCLI_XTC_THRESHOLD",
        rich_help_panel=_MORE,
        help="XTC: leave out all but the least probable of the tokens with at least this probability. Default: 0.1.",
    ),
]
LogitBias: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--logit-bias",
        envvar="LLMCLI_LOGIT_BIAS",
        metavar="TOKEN+BIAS|TOKEN-BIAS",
        callback=text,
        rich_help_panel=_MORE,
        help="Add to the logit of a token, by its ID or text, as in 15043+1 or Hello-inf. May be given several times.",
    ),
]


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling flags as given; None where the user said nothing."""

    max_tokens: MaxTokens = None
    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    repeat_penalty: RepeatPenalty = None
    seed: Seed = None
    stop: Stop = None
    stop_in_thinking: StopInThinking = False
    frequency_penalty: FrequencyPenalty = None
    presence_penalty: PresencePenalty = None
    repeat_last_n: RepeatLastN = None
    dry_multiplier: DryMultiplier = None
    dry_base: DryBase = None
    dry_allowed_length: DryAllowedLength = None
    dry_penalty_last_n: DryPenaltyLastN = None
    dry_sequence_breaker: DrySequenceBreaker = None
    top_n_sigma: TopNSigma = None
    dynatemp_range: DynatempRange = None
    dynatemp_exponent: DynatempExponent = None
    typical_p: TypicalP = None
    xtc_probability: XtcProbability = None
    xtc_threshold: XtcThreshold = None
    logit_bias: LogitBias = None

    def check(self) -> None:
        """Raise `UsageError` for a value that makes no sense, before a model has been loaded."""
        for bias in self.logit_bias or ():
            check_bias(bias)
        self._params({}, ())

    def params(self, model_defaults: Mapping[str, float], tokenizer: Tokenizer) -> SamplingParams:
        """What the user said, else what the model's makers recommend, else our defaults; the seed is always drawn.

        Raises:
            UsageError: a value makes no sense, or is not for texts of `tokenizer`.
        """
        from llmcli.engine.sampler import sampler_for

        params = self._params(model_defaults, token_biases(self.logit_bias or (), tokenizer))
        # It raises what there is to be said of sequence breakers.
        sampler_for(params, tokenizer)
        return params

    def _params(self, model_defaults: Mapping[str, float], biases: tuple[tuple[int, float], ...]) -> SamplingParams:
        from llmcli.engine.recommendations import recommended_params

        given: dict[str, Any] = {name: getattr(self, name) for name in FILTERS if getattr(self, name) is not None}
        if self.dry_sequence_breaker:
            texts = tuple(self.dry_sequence_breaker)
            given["dry_sequence_breakers"] = () if texts == ("none",) else texts
        given |= {"logit_bias": biases, "seed": self.seed, "max_tokens": self.max_tokens}
        ends = {"stop": tuple(self.stop or ()), "stop_in_thinking": self.stop_in_thinking}
        return recommended_params(model_defaults, {**given, **ends})


NOT_GIVEN = SamplingOptions()
_OTHERS = ("max_tokens", "seed", "stop", "stop_in_thinking", "logit_bias", "dry_sequence_breaker")
FILTERS = tuple(each.name for each in fields(SamplingOptions) if each.name not in _OTHERS)
"""The filters with one number each, which have the same name in `SamplingParams`."""


def with_sampling_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Make flags of the fields of `SamplingOptions`, which `command` is given as its parameter `sampling`."""
    kinds = get_type_hints(SamplingOptions, include_extras=True)

    def with_flags(**given: Any) -> None:
        sampling = SamplingOptions(**{name: given.pop(name) for name in kinds})
        command(**given, sampling=sampling)

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name != "sampling":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(NOT_GIVEN, name), annotation=kind)
            for name, kind in kinds.items()
        ]
    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    with_flags.__module__ = command.__module__
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # What Typer reads options from.
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_flags
