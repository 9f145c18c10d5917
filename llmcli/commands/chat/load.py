"""Loading the model of a chat, at its start and for `/model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmcli.commands.chat.session import ChatModel
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.speculative import Speculator
from llmcli.conversations.records import model_source
from llmcli.engine import Conversation
from llmcli.errors import UsageError

if TYPE_CHECKING:
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat_template.template import ChatTemplate


@dataclass(frozen=True)
class ChatModelLoader:
    """Loads models for a chat with the options it was started with."""

    model: ModelOptions
    prompt: PromptOptions
    sampling: SamplingOptions
    speculator: Speculator
    variables: Mapping[str, object]
    """Those of the chat template."""

    def first(self) -> ChatModel:
        """The model that the chat begins with, and the chat template that was asked for."""
        return self._load(self.model.model, self.prompt.chat_template)

    def another(self, name: str | None) -> ChatModel:
        """The model called `name`, with its own chat template."""
        return self._load(name, None)

    def _load(self, name: str | None, template: str | None) -> ChatModel:
        loaded = load_model(find_checkpoint(name), self.model, template=template)
        chat_template = _chat_template(loaded)
        conversation = Conversation(
            self.speculator.engine(loaded, self.model),
            loaded.tokenizer,
            chat_template,
            self.prompt.system,
            template_args=self.variables,
            strict_system=self.prompt.strict_system,
            no_thinking=self.prompt.no_thinking,
        )
        params = self.sampling.params(loaded.generation_defaults, loaded.tokenizer)
        return ChatModel(loaded, conversation, params, model_source(name), _template_path(template), self.variables)


def _chat_template(loaded: LoadedModel) -> ChatTemplate:
    """The model's chat template.

    Raises:
        UsageError: it has none.
        CheckpointError: it cannot be used.
    """
    if loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; llm generate continues text with it.")
    loaded.template.check()
    return loaded.template


def _template_path(name: str | None) -> str | None:
    """What finds the chat template from any folder: an absolute path for a file, otherwise its name."""
    from llmcli.checkpoint.chat_template_file import is_template_file

    if not name or not is_template_file(name):
        return name
    path = Path(name).expanduser()
    # What a pipe leads to has no name.
    return str(path.resolve() if path.is_file() else path.absolute())
