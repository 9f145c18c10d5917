"""`POST /v1/decisions`: the probability of each of several answers to questions about one input.

Each answer is scored whole, its end included, as by `llm generate --choices`: of any number of tokens, and exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmcli.engine.prefill import PrefillProgress
from llmcli.errors import UsageError
from llmcli.inspection.evaluation.answer_choices import AnswerChoices
from llmcli.inspection.evaluation.multiple_choice import choose
from llmcli.server.http.errors import ApiError
from llmcli.server.http.streams import json_object
from llmcli.server.openai.fields import Fields
from llmcli.server.service import Ready, Service
from llmcli.text.chat.messages import Message, parse_messages
from llmcli.text.chat.reply_prompt import ReplyPrompt

_MOST_QUESTIONS, _MOST_CHOICES, _MOST_LEVELS = 400, 255, 10
_YES, _NO = "Yes", "No"


@dataclass(frozen=True)
class _Question:
    """One question: the messages it is asked with, and its answers as the model would write them."""

    kind: str
    name: str | None
    messages: tuple[Message, ...]
    answers: Mapping[str, object]
    """Each answer with its value: a text or a boolean of a choice, the number of a level, true or false."""


class Decisions:
    """The endpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:
        """Answer all questions of a request."""
        service, ready = self._service, self._service.needed()
        body = await json_object(request)
        fields = Fields(body)
        model = fields.text("model")
        service.check_model(model)
        questions = _questions(fields)
        fields.end()
        answers: list[dict[str, object]] = []
        read = 0
        for question in questions:
            scored = await service.prepare(lambda question=question: _Scored(question, ready))  # type: ignore[misc]
            result = await service.compute(scored.result, request.receive)
            assert isinstance(result, AnswerChoices)
            read += result.read_tokens
            answers.append(_answer(question, result))
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read,
        }
        return JSONResponse({"model": model or ready.loaded.name, "answers": answers, "usage": usage})


class _Scored:
    """A question whose prompt and answers are encoded."""

    def __init__(self, question: _Question, ready: Ready) -> None:
        loaded = ready.loaded
        if loaded.template is None:
            raise ApiError(f"{loaded.name} has no chat template, so it answers no questions.", status=501)
        prompt = ReplyPrompt.make(
            loaded.tokenizer, loaded.template, question.messages, continue_last=False, no_thinking=True
        )
        self._loaded, self._context = loaded, ready.scheduler.context_length
        self._prompt = prompt.built().ids
        self._answers = {answer: prompt.built(answer).ids for answer in question.answers}

    def result(self, progress: PrefillProgress) -> AnswerChoices:
        """Compute the probabilities."""
        return choose(
            self._loaded,
            self._prompt,
            self._answers,
            whole=bool(self._loaded.stop_ids),
            context_length=self._context,
            progress=progress,
        )


def _answer(question: _Question, result: AnswerChoices) -> dict[str, object]:
    shares = {choice.text: choice.prob for choice in result.choices}
    named: dict[str, object] = {"type": question.kind, "name": question.name}
    if question.kind == "predicate":
        return named | {"probability": shares[_YES]}
    best = result.choices[0]
    named["confidence"] = best.prob
    if question.kind == "choice":
        each = [{"value": value, "probability": shares[text]} for text, value in question.answers.items()]
        return named | {"choice": question.answers[best.text], "probabilities": each}
    levels = [{"label": text, "value": value, "probability": shares[text]} for text, value in question.answers.items()]
    expected = sum(level * shares[text] for text, level in question.answers.items() if isinstance(level, int))
    return named | {"score": expected, "probabilities": levels}


def _questions(fields: Fields) -> list[_Question]:
    """The questions of a request, each with the input before it."""
    before = _input(fields.value("input"))
    given = fields.value("questions")
    if not isinstance(given, list) or not 0 < len(given) <= _MOST_QUESTIONS:
        raise ApiError(f"questions must be a list of 1 to {_MOST_QUESTIONS}.", param="questions")
    return [_question(each, number, before) for number, each in enumerate(given)]


def _input(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list) or not value:
        raise ApiError("input must be a text or a list of messages.", param="input")
    messages = []
    for each in value:
        if not isinstance(each, dict) or each.get("type", "message") != "message":
            raise ApiError("input can have messages only: calls and their results are not read.", param="input")
        content = _text(each.get("content"))
        messages.append({"role": each.get("role"), "content": each.get("content") if content is None else content})
    try:
        return parse_messages(messages)
    except UsageError as error:
        raise ApiError(str(error), param="input") from None


def _text(content: object) -> str | None:
    """The text of content whose parts are texts or JSON; None for other content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict):
            return None
        if part.get("type") == "input_json":
            texts.append(json.dumps(part.get("data"), ensure_ascii=False))
        elif part.get("type") in ("input_text", "output_text", "text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            return None
    return "\n".join(texts)


def _question(value: object, number: int, before: Sequence[Message]) -> _Question:
    where = f"questions[{number}]"
    if not isinstance(value, dict):
        raise ApiError(f"{where} must be an object.", param=where)
    fields = Fields(value, f"{where}.")
    kind, name, instructions = fields.text("type"), fields.text("name"), _text(fields.value("instructions"))
    if not instructions:
        raise ApiError(f"{where}.instructions must be a text.", param=f"{where}.instructions")
    answers, asks = _answers(fields, kind, where)
    fields.end()
    assert kind is not None
    question = f"{instructions}\n\n{asks}"
    if before[-1].role == "user":
        last = Message("user", f"{before[-1].content}\n\n{question}")
        return _Question(kind, name, (*before[:-1], last), answers)
    return _Question(kind, name, (*before, Message("user", question)), answers)


def _answers(fields: Fields, kind: str | None, where: str) -> tuple[dict[str, object], str]:
    """The answers with their values, and the words that ask for one of them."""
    if kind == "predicate":
        return {_YES: True, _NO: False}, f"Answer {_YES} or {_NO}."
    listed: list[tuple[object, str | None]] = []
    if kind == "choice":
        for each in _objects(fields, "choices", 2, _MOST_CHOICES, where):
            value = each.value("value")
            if not isinstance(value, str | bool) or value == "":
                raise ApiError(f"A value of {where}.choices must be a text or a boolean.", param=f"{where}.choices")
            listed.append((value, each.text("description")))
            each.end()
    elif kind == "score":
        for each in _objects(fields, "levels", 2, _MOST_LEVELS, where):
            label = each.text("label")
            if not label:
                raise ApiError(f"A label of {where}.levels must be a text.", param=f"{where}.levels")
            listed.append((label, each.text("description")))
            each.end()
    else:
        raise ApiError(f"{where}.type must be predicate, choice or score.", param=f"{where}.type")
    texts = [_written(value) for value, _ in listed]
    if len(set(texts)) < len(texts):
        raise ApiError(f"Two answers of {where} are the same text.", param=where)
    lines = [f"- {text}" + (f": {about}" if about else "") for text, (_, about) in zip(texts, listed, strict=True)]
    values = range(len(texts)) if kind == "score" else [value for value, _ in listed]
    return dict(zip(texts, values, strict=True)), "\n".join(["Answer with exactly one of these:", *lines])


def _objects(fields: Fields, name: str, least: int, most: int, where: str) -> list[Fields]:
    value = fields.value(name)
    if not isinstance(value, list) or not least <= len(value) <= most or not all(isinstance(x, dict) for x in value):
        raise ApiError(f"{where}.{name} must be a list of {least} to {most} objects.", param=f"{where}.{name}")
    return [Fields(each, f"{where}.{name}.") for each in value]


def _written(value: object) -> str:
    """An answer as a model writes it."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
