"""What a server computes besides replies: the probabilities of given answers, and the score of a text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llmcli.client.connection import ServerAnswer, error_of, server_ended
from llmcli.inspection.evaluation.answer_choices import AnswerChoices
from llmcli.inspection.evaluation.text_score import TextScore
from llmcli.server.registry import ServerState
from llmcli.server.values import from_json
from llmcli.server.wire import GenerateRequest, ReplyBegin, ReplyReader, request_line
from llmcli.text.chat_template.json_text import json_text

_Value = TypeVar("_Value")


class ServedValue:
    """An answer whose last value is a result, after notes and progress."""

    def __init__(self, server: ServerState, path: str, body: str, tell: Callable[[str], None]) -> None:
        """Send a request; `tell` is called with notes.

        Raises:
            NoServerError: the server does not answer, or takes no more requests.
            LlmcliError: the server refuses the request.
        """
        self._server, self._tell = server, tell
        self._answer = ServerAnswer(server, path, body)

    def next(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """The next line that is neither a note nor progress.

        Raises:
            LlmcliError: the computation failed, or the server ended.
        """
        while True:
            try:
                line = self._answer.line()
                value: dict[str, Any] = {} if line is None else json.loads(line)
            except ValueError:
                value = {}
            match value.get("event"):
                case "note":
                    self._tell(value["text"])
                case "progress":
                    progress(value["done"], value["total"])
                case "error":
                    raise error_of(value["message"], value["exit_code"])
                case None:
                    raise server_ended(self._server, "its answer")
                case _:
                    return value

    def data(self, count: int) -> bytes:
        """The `count` bytes that come next.

        Raises:
            LlmcliError: the server ended.
        """
        data = self._answer.data(count)
        if len(data) < count:
            raise server_ended(self._server, "its answer")
        return data

    def result(self, kind: type[_Value], progress: Callable[[int, int], None]) -> tuple[_Value, Mapping[str, str]]:
        """The result, and the bytes of the tokens in it, each as a Latin-1 string."""
        value = self.next(progress)
        return from_json(kind, value["value"]), value.get("bytes", {})

    def close(self) -> None:
        """Close the connection, which ends the computation."""
        self._answer.close()


class ServedChoices:
    """The probabilities of answers to a prompt."""

    def __init__(
        self,
        server: ServerState,
        request: GenerateRequest,
        answers: Sequence[str],
        thought: tuple[int, ...] | None,
        *,
        readable: bool,
        tell: Callable[[str], None],
    ) -> None:
        """Without a `thought`, a model that may think computes nothing: `may_think` is true then.

        Raises:
            NoServerError: the server does not answer, or takes no more requests.
            LlmcliError: the request does not suit the model.
        """
        more = {"answers": list(answers), "thought": thought, "readable": readable}
        body = json_text({"request": json.loads(request_line(request)), **more})
        self._value = ServedValue(server, "/internal/choices", body, tell)
        try:
            begin = self._value.next(lambda done, total: None)
            self.may_think = bool(begin.pop("may_think"))
            found = ReplyReader().read(json.dumps(begin))
        except BaseException:
            self._value.close()
            raise
        assert isinstance(found, ReplyBegin)
        self.begin = found

    def result(self, progress: Callable[[int, int], None]) -> AnswerChoices:
        """The answers with their probabilities; `progress` is called with how much of the prompt is read."""
        return self._value.result(AnswerChoices, progress)[0]

    def close(self) -> None:
        """Close the connection."""
        self._value.close()


def served_score(
    server: ServerState,
    request: Mapping[str, object],
    tell: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[TextScore, Callable[[int], bytes]]:
    """The score of a text, and the bytes of the tokens in it.

    Raises:
        NoServerError: the server does not answer, or takes no more requests.
        LlmcliError: the request does not suit the model.
    """
    value = ServedValue(server, "/internal/score", json_text(request), tell)
    try:
        score, pieces = value.result(TextScore, progress)
    finally:
        value.close()
    return score, lambda token: pieces[str(token)].encode("latin-1")
