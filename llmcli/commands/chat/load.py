"""Load the model of a chat, at its start and for `/model`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmcli.commands.chat.session import ChatModel
from llmcli.commands.shared.continued import template_source
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
    """Loads models for a chat with the options of the command line."""

    model: ModelOptions
    prompt: PromptOptions
    sampling: SamplingOptions
    speculator: Speculator
    variables: Mapping[str, object]
    """Variables of the chat template."""

    def first(self) -> ChatModel:
        """Load the first model of the chat, with the chat template of --chat-template."""
        return self._load(self.model.model, self.prompt.chat_template)

    def another(self, name: str | None) -> ChatModel:
        """Load the model `name` with its default chat template."""
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
        return ChatModel(loaded, conversation, params, model_source(name), template_source(template), self.variables)


def _chat_template(loaded: LoadedModel) -> ChatTemplate:
    """The model's chat template, after checking it.

    Raises:
        UsageError: the model has no chat template.
        CheckpointError: the template is damaged.
    """
    if loaded.template is None:
        raise UsageError(f"{loaded.name} has no chat template; llm generate continues text with it.")
    loaded.template.check()
    return loaded.template
