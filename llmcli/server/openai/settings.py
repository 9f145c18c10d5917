"""Sampling settings, stop rules and the form of a reply, from the fields of a request.

Settings that a request does not give have the values that the model recommends, and else this program's: the text is
that of `llm generate` with the same seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from llmcli.engine.guided.grammar import Rule
from llmcli.engine.sampling.params import SamplingParams
from llmcli.engine.sampling.recommendations import recommended_params
from llmcli.errors import UsageError
from llmcli.loaded_model import LoadedModel
from llmcli.server.http.errors import ApiError
from llmcli.server.openai.fields import Fields

_NUMBERS = (
    "temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "top_n_sigma", "dynatemp_range",
    "dynatemp_exponent", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base",
)  # fmt: skip
_COUNTS = ("repeat_last_n", "dry_allowed_length", "dry_penalty_last_n")
_LARGEST_SEED = (1 << 63) - 1
_MOST_STOPS = 16


def sampling_params(fields: Fields, loaded: LoadedModel, *, max_tokens: int | None) -> SamplingParams:
    """The settings that `fields` give.

    Raises:
        ApiError: a value is wrong, or a setting is not supported.
    """
    given: dict[str, Any] = {name: value for name in _NUMBERS if (value := fields.number(name)) is not None}
    given |= {name: value for name in _COUNTS if (value := fields.integer(name, -1)) is not None}
    if (top_k := fields.integer("top_k", -1)) is not None:
        # vLLM's spelling of "off".
        given["top_k"] = max(0, top_k)
    if (penalty := fields.number("repetition_penalty")) is not None:
        given["repeat_penalty"] = penalty
    for name in ("frequency_penalty", "presence_penalty"):
        fields.refuse_unless(name, 0, why="repetition_penalty and the dry_ settings are")
    if (bias := fields.value("logit_bias")) is not None:
        given["logit_bias"] = _biases(bias, loaded.tokenizer.vocab_size)
    stop = fields.texts("stop")
    if len(stop) > _MOST_STOPS:
        raise ApiError(f"stop can have {_MOST_STOPS} texts, not {len(stop)}.", param="stop")
    given |= {"stop": stop, "seed": fields.integer("seed", 0, _LARGEST_SEED), "max_tokens": max_tokens}
    try:
        return recommended_params(loaded.generation_defaults, given)
    except UsageError as error:
        raise ApiError(str(error), param=str(error).partition(" ")[0].replace("-", "_")) from None


def _biases(value: object, vocab_size: int) -> tuple[tuple[int, float], ...]:
    wrong = ApiError('logit_bias must be an object such as {"15043": -100}.', param="logit_bias")
    if not isinstance(value, dict):
        raise wrong
    biases = []
    for token, bias in value.items():
        if not token.isdecimal() or isinstance(bias, bool) or not isinstance(bias, int | float):
            raise wrong
        if int(token) >= vocab_size:
            raise ApiError(f"logit_bias: the model has {vocab_size} tokens, so none is {token}.", param="logit_bias")
        biases.append((int(token), float(bias)))
    return tuple(biases)


def reply_form(fields: Fields) -> Rule | None:
    """The form that a reply must have; None for free text.

    `response_format` is OpenAI's, `structured_outputs` vLLM's; `grammar` is one of llguidance, in its Lark syntax.

    Raises:
        ApiError: it is invalid, or several are given.
    """
    found: list[tuple[str, Rule]] = []
    if (given := fields.inner("response_format")) is not None and (rule := _response_format(given)) is not None:
        found.append(("response_format", rule))
    if (grammar := fields.text("grammar")) is not None:
        found.append(("grammar", Rule("grammar", grammar)))
    if (given := fields.inner("structured_outputs")) is not None:
        found += [("structured_outputs", rule) for rule in _structured_outputs(given)]
    if len(found) > 1:
        raise ApiError("A reply has one form: give one of response_format, grammar and structured_outputs.")
    if not found:
        return None
    param, rule = found[0]
    try:
        rule.check()
    except UsageError as error:
        raise ApiError(str(error).replace("--json-schema", "schema").replace("--", ""), param=param) from None
    return rule


def _response_format(fields: Fields) -> Rule | None:
    match fields.text("type"):
        case "text":
            return None
        case "json_object":
            schema: Any = fields.value("schema", {"type": "object"})
        case "json_schema":
            inner = fields.inner("json_schema")
            if inner is None:
                raise ApiError("response_format.json_schema is missing.", param="response_format")
            schema = inner.value("schema", {})
            # Replies always keep to the schema.
            inner.end(ignored=("name", "strict", "description"))
        case kind:
            raise ApiError(
                f"response_format.type must be text, json_object or json_schema, not {kind!r}.", param="response_format"
            )
    fields.end(ignored=("name", "strict"))
    return _schema_rule(schema, "response_format")


def _structured_outputs(fields: Fields) -> list[Rule]:
    rules = []
    if (schema := fields.value("json")) is not None:
        rules.append(_schema_rule(schema, "structured_outputs"))
    if (regex := fields.text("regex")) is not None:
        rules.append(Rule("regex", regex))
    if (grammar := fields.text("grammar")) is not None:
        rules.append(Rule("grammar", grammar))
    if choice := fields.texts("choice"):
        rules.append(Rule("regex", "|".join(map(re.escape, choice))))
    if fields.flag("json_object"):
        rules.append(_schema_rule({"type": "object"}, "structured_outputs"))
    fields.end()
    return rules


def _schema_rule(schema: object, param: str) -> Rule:
    if isinstance(schema, str):
        return Rule("json-schema", schema)
    if not isinstance(schema, Mapping | bool):
        raise ApiError("The schema must be a JSON object.", param=param)
    return Rule("json-schema", json.dumps(schema))
