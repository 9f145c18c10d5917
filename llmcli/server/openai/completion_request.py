"""A request to continue texts: its prompts, and the settings of the replies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmcli.engine.guided.grammar import Rule
from llmcli.engine.sampling.params import SamplingParams
from llmcli.server.http.errors import ApiError
from llmcli.server.openai.fields import Fields
from llmcli.server.openai.forms import constrained, room_for
from llmcli.server.openai.settings import reply_form, sampling_params
from llmcli.server.scheduler.work import ReplyRequest
from llmcli.server.service import Ready
from llmcli.text.reasoning import ReplyStart
from llmcli.text.tokenizer import Tokenizer

# As in OpenAI's API and vLLM.
_DEFAULT_TOKENS = 16
_MOST_LOGPROBS, _MOST_PROMPTS, _MOST_TOKENS = 20, 2048, 1 << 31


@dataclass(frozen=True)
class Prompt:
    """One text to continue."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class CompletionAsked:
    """A request that has been read."""

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    rule: Rule | None
    writes: bool
    """Whether there is a reply to write; with `max_tokens` 0 there is none."""
    echo: bool
    """Whether the replies begin with the prompt."""
    logprobs: int | None
    """How many candidates each token has; None: no log-probabilities."""
    model: str | None
    stream: bool
    include_usage: bool
    token_ids: bool
    ignores_end: bool

    def reply(self, prompt: Prompt, ready: Ready) -> ReplyRequest:
        """The reply to one of the prompts.

        Raises:
            LlmcliError: the prompt leaves no room, or none for a reply of the requested form.
        """
        room = room_for(prompt.ids, self.params, ready.scheduler.context_length)
        constraint, _ = constrained(self.rule, ready.loaded, ReplyStart(), room=room, is_chat=False)
        return ReplyRequest(
            prompt.ids,
            self.params,
            constraint=constraint,
            probabilities=self.logprobs is not None,
            top=self.logprobs or 0,
            ignores_end=self.ignores_end,
            prompt_top=self.logprobs if self.echo else None,
            writes=self.writes,
        )


def read_completion(body: Mapping[str, Any], ready: Ready) -> CompletionAsked:
    """Read the body of a request.

    Raises:
        ApiError: a field is wrong, or not supported.
    """
    fields = Fields(body)
    model, stream = fields.text("model"), fields.flag("stream")
    options = fields.inner("stream_options")
    include_usage = options is not None and options.flag("include_usage")
    echo, token_ids = fields.flag("echo"), fields.flag("return_token_ids")
    prompts = read_prompts(fields, ready.loaded.tokenizer, "prompt")
    most = fields.integer("max_tokens", 0, _MOST_TOKENS)
    most = _DEFAULT_TOKENS if most is None else most
    if most == 0 and not echo:
        raise ApiError("max_tokens can be 0 only with echo, for the prompt alone.", param="max_tokens")
    params = sampling_params(fields, ready.loaded, max_tokens=most or 1)
    logprobs = fields.value("logprobs")
    # False is what some clients write for none.
    if logprobs is not False and logprobs is not None:
        logprobs = Fields({"logprobs": logprobs}).integer("logprobs", 0, _MOST_LOGPROBS)
    rule, ignores_end = reply_form(fields), fields.flag("ignore_eos")
    fields.flag("timings_per_token")
    for name in ("n", "best_of"):
        fields.refuse_unless(name, 1, why="each prompt has one reply")
    fields.refuse_unless("suffix", "", why="llm generate --fill-in writes between two texts")
    fields.end()
    return CompletionAsked(
        prompts,
        params,
        rule,
        writes=most > 0,
        echo=echo,
        logprobs=logprobs if logprobs is not False else None,
        model=model,
        stream=stream,
        include_usage=include_usage,
        token_ids=token_ids,
        ignores_end=ignores_end,
    )


def read_prompts(fields: Fields, tokenizer: Tokenizer, name: str) -> tuple[Prompt, ...]:
    """The texts in the field `name`: a text, a list of texts, the ids of a text, or a list of these.

    Raises:
        ApiError: it is none of these.
    """
    special, control = fields.flag("add_special_tokens", True), fields.flag("control_tokens")
    given = fields.value(name)
    if isinstance(given, list) and given and all(isinstance(each, int) for each in given):
        given = [given]
    several = given if isinstance(given, list) else [given]
    if not 0 < len(several) <= _MOST_PROMPTS:
        raise ApiError(f"{name} can have from 1 to {_MOST_PROMPTS} texts.", param=name)
    found = []
    for each in several:
        if isinstance(each, str):
            ids = tokenizer.encode(each, add_special_tokens=special, control_tokens=control)
            found.append(Prompt(each, tuple(ids)))
        elif isinstance(each, list):
            ids = token_ids(each, name, tokenizer)
            found.append(Prompt(tokenizer.decode(ids, skip_special=False), tuple(ids)))
        else:
            raise ApiError(f"{name} must be a text, a list of texts, or one or several lists of token ids.", param=name)
    return tuple(found)


def token_ids(value: object, name: str, tokenizer: Tokenizer) -> list[int]:
    """The ids in a field.

    Raises:
        ApiError: it is not a list of ids of the vocabulary.
    """
    size = tokenizer.vocab_size
    if not isinstance(value, list) or not all(type(token) is int and 0 <= token < size for token in value):
        raise ApiError(f"{name} must be a list of token ids from 0 to {size - 1}.", param=name)
    return value
