"""One reply that a command has asked for: its prompt, its settings, and the texts of its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from llmcli.engine import Event, Finish, Step
from llmcli.engine.guided.answer_form import form_start
from llmcli.engine.guided.constraint import Constraint
from llmcli.engine.reply.thinking import ThinkingApart
from llmcli.engine.sampling.logit_bias import token_biases
from llmcli.engine.sampling.params import SamplingParams, params_from_json
from llmcli.engine.sampling.recommendations import recommended_params
from llmcli.engine.sampling.sequence_breakers import breakers_of
from llmcli.errors import UsageError
from llmcli.loaded_model import LoadedModel
from llmcli.server.wire import GenerateRequest, ReplyBegin
from llmcli.text.chat.prompt import ChatPrompt
from llmcli.text.chat.prompt_request import reply_prompt
from llmcli.text.reasoning import ReplyStart


class CommandReply:
    """Turns a `GenerateRequest` into the arguments of an engine, and the engine's events into those of the command.

    Used by a command in its own process, and by a server for a command in another one.
    """

    def __init__(self, loaded: LoadedModel, request: GenerateRequest) -> None:
        """Encode the prompt and complete the settings.

        Raises:
            UsageError: the request does not suit the model.
            LlmcliError: the chat template fails, or there can be no text of the requested form.
        """
        asked = request.prompt
        self._loaded, self._request = loaded, request
        self.prompt = reply_prompt(asked, loaded.tokenizer, loaded.template, model=loaded.name)
        self.built = self.prompt.built(asked.prefill) if request.ids is None else _given(loaded, request)
        self.params = _params(loaded, request)
        apart = ThinkingApart(loaded.tokenizer, self.built.start, exact=request.form is not None)
        self.prefill, self.prefill_thinking = apart.prefill, apart.prefill_thinking
        self.constraint: Constraint | None = None
        """The form of the reply, for the engine; it keeps the state of this reply."""
        self.start: ReplyStart = self.built.start
        """Where the reply begins, for the engine."""
        if request.form is not None:
            self.constraint = Constraint(request.form, loaded.tokenizer, self._stop_ids, prefill=apart.prefill)
            self.start = form_start(self.constraint, loaded.tokenizer, self.start, no_thinking=asked.no_thinking)
            apart = ThinkingApart(loaded.tokenizer, self.start, exact=True)
        self._apart = apart
        self.raw_text = ""
        """The text of the last event with thoughts and their marks, as a saved conversation keeps it."""
        self.text = self.built.start.prefill
        """The text of the reply so far, with thoughts and their marks."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt, up to the end of the prefill."""
        return tuple(self.built.ids)

    @property
    def is_chat(self) -> bool:
        """Whether the chat template writes the prompt."""
        return self.prompt.is_chat

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end the reply besides those of the model: of a gap that is filled."""
        return frozenset() if self.prompt.gap is None else self.prompt.gap[0].ends

    @property
    def probabilities(self) -> bool:
        """Whether the engine must compute the probability of each token."""
        return self._request.probabilities or self._request.top > 0

    @property
    def complete(self) -> bool | None:
        """Whether the reply has the requested form so far; None without a form."""
        return None if self.constraint is None else self.constraint.complete

    @property
    def can_end(self) -> bool | None:
        """Once the engine has begun: whether a way to complete the form is known; None without a form."""
        return None if self.constraint is None else self.constraint.can_end

    @property
    def awaits_answer(self) -> bool:
        """Whether a thought must end before the answer can begin."""
        return self._apart.awaits_answer

    def begin(self, *, context_length: int, path: str) -> ReplyBegin:
        """What is known before the reply begins."""
        pieces = None
        if self._request.show_prompt:
            tokenizer = self._loaded.tokenizer
            pieces = tuple(
                (tokenizer.token_bytes(token).decode("latin-1"), tokenizer.is_guarded(token)) for token in self.ids
            )
        return ReplyBegin(
            model=self._loaded.name,
            path=path,
            params=asdict(self.params),
            prompt_ids=self.ids,
            begun_ids=self._begun_ids,
            given=self.built.start.prefill,
            prefill=self.prefill,
            prefill_thinking=self.prefill_thinking,
            state=self.start.state,
            is_chat=self.is_chat,
            context_length=context_length,
            notes=(*self.built.notes, *self._control_tokens_note()),
            prompt_pieces=pieces,
        )

    def split(self, event: Event) -> Event:
        """`event` of the engine with thoughts apart from the answer."""
        self.raw_text = event.text if isinstance(event, Step | Finish) else ""
        self.text += self.raw_text
        return self._apart(event)

    def _control_tokens_note(self) -> list[str]:
        """With control tokens in the text of the prompt: which it contains, and how often."""
        if not self.prompt.control_tokens:
            return []
        tokenizer, asked = self._loaded.tokenizer, self._request.prompt
        ids = tokenizer.encode(asked.text + asked.prefill, add_special_tokens=False, control_tokens=True)
        found = Counter(tokenizer.piece(token) for token in ids if tokenizer.is_guarded(token))
        counted = ", ".join(piece if count == 1 else f"{piece} ({count} times)" for piece, count in found.items())
        return [f"Control tokens in the prompt: {counted or 'none'}."]

    @cached_property
    def _begun_ids(self) -> tuple[int, ...] | None:
        """The tokens of the prompt that are the prefill; None if they are not exactly its text."""
        prefill = self.built.start.prefill
        if not prefill:
            return ()
        before, whole = self.prompt.built().ids, self.built.ids
        begun = whole[len(before) :]
        is_exact = whole[: len(before)] == before and self._loaded.tokenizer.decode(begun) == prefill
        return tuple(begun) if is_exact else None

    @property
    def _stop_ids(self) -> set[int]:
        loaded = self._loaded
        return {*(loaded.stop_ids if self.is_chat else loaded.declared_stop_ids), *self.ends}


def _given(loaded: LoadedModel, request: GenerateRequest) -> ChatPrompt:
    """The prompt whose ids the request gives."""
    check_ids(loaded, [*(request.ids or ()), *request.begun])
    return ChatPrompt(list(request.ids or ()), start=ReplyStart(request.state))


def check_ids(loaded: LoadedModel, ids: Sequence[int]) -> None:
    """Check the ids of a request.

    Raises:
        UsageError: one is no token of the model.
    """
    if not all(type(token) is int and 0 <= token < loaded.tokenizer.vocab_size for token in ids):
        raise UsageError(f"The prompt has an id that is no token of {loaded.name}.")


def _params(loaded: LoadedModel, request: GenerateRequest) -> SamplingParams:
    try:
        # Read for the types: JSON has lists where settings are tuples.
        read = params_from_json(request.settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"A setting of the request has the wrong type: {error}.") from None
    given: dict[str, Any] = {name: getattr(read, name) for name in request.settings}
    given["logit_bias"] = token_biases(request.logit_bias, loaded.tokenizer)
    params = recommended_params(loaded.generation_defaults, given)
    # Only to check the sequence breakers.
    breakers_of(params, loaded.tokenizer)
    return params
