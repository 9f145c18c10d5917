"""Turn the lines of a batch into requests for the batch engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmcli.commands.batch import input
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.errors import LlmcliError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.engine.batch.batch import Request
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.prompt import ChatPrompt


class BatchPrompts:
    """Turns lines into requests as the engine needs them, and keeps each line's "id" and seed for its result."""

    def __init__(
        self,
        loaded: LoadedModel,
        sampling: SamplingOptions,
        options: PromptOptions,
        variables: Mapping[str, object],
    ) -> None:
        self._loaded, self._sampling, self._options, self._variables = loaded, sampling, options, variables
        self._known_notes: set[str] = set()
        self.ids: dict[int, input.Id] = {}
        self.seeds: dict[int, int | None] = {}

    @property
    def are_chats(self) -> bool:
        """Whether the prompts are written with a chat template."""
        return not self._options.raw and self._loaded.template is not None

    def request(self, line: input.Line) -> Request | LlmcliError:
        """The request of a line, or the error that prevents it."""
        try:
            return self._request(line)
        except LlmcliError as error:
            return error

    def _request(self, line: input.Line) -> Request:
        from llmcli.engine.batch.batch import Request

        value = input.parsed(line)
        self.ids[line.index] = input.id_of(value)
        task = input.task(value, self._sampling)
        params = task.sampling.params(self._loaded.generation_defaults, self._loaded.tokenizer)
        self.seeds[line.index] = params.seed
        built = self._prompt(task)
        return Request(tuple(built.ids), params, self.are_chats, built.start)

    def _prompt(self, task: input.BatchTask) -> ChatPrompt:
        from llmcli.text.chat.prompt_request import reply_prompt

        loaded = self._loaded
        request = task.prompt_request(self._options, self._variables)
        return self._noted(reply_prompt(request, loaded.tokenizer, loaded.template, model=loaded.name).built())

    def _noted(self, built: ChatPrompt) -> ChatPrompt:
        """Show those notes of `built` that have not been shown for an earlier line; return `built`."""
        for note in built.notes:
            if note not in self._known_notes:
                terminal.note(note)
            self._known_notes.add(note)
        return built
