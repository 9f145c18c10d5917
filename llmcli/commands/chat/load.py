"""Load the model of a chat, at its start and for `/model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from llmcli.commands.chat.session import ChatModel
from llmcli.commands.shared.continued import template_source
from llmcli.commands.shared.load_model import find_checkpoint, load_model
from llmcli.commands.shared.options.model import ModelOptions
from llmcli.commands.shared.options.prompt import PromptOptions
from llmcli.commands.shared.options.sampling import SamplingOptions
from llmcli.commands.shared.server import check_no_server_named, has_same_files, server_for
from llmcli.commands.shared.speculative import Speculator
from llmcli.conversations.records import model_source
from llmcli.engine import Conversation
from llmcli.errors import UsageError
from llmcli.views.terminal import terminal

if TYPE_CHECKING:
    from llmcli.engine.conversation import ConversationEngine
    from llmcli.loaded_model import LoadedModel
    from llmcli.server.registry import ServerState
    from llmcli.text.chat_template.template import ChatTemplate
    from llmcli.text.tokenizer import Tokenizer


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
        loaded, engine = self._served(name, template) or self._here(name, template)
        chat_template = _chat_template(loaded)
        conversation = Conversation(
            engine,
            loaded.tokenizer,
            chat_template,
            self.prompt.system,
            template_args=self.variables,
            strict_system=self.prompt.strict_system,
            no_thinking=self.prompt.no_thinking,
        )
        params = self.sampling.params(loaded.generation_defaults, loaded.tokenizer)
        return ChatModel(loaded, conversation, params, model_source(name), template_source(template), self.variables)

    def _here(self, name: str | None, template: str | None) -> tuple[LoadedModel, ConversationEngine]:
        """The model loaded in this process, and its engine."""
        loaded = load_model(find_checkpoint(name), self.model, template=template)
        return loaded, self.speculator.engine(loaded, self.model)

    def _served(self, name: str | None, template: str | None) -> tuple[LoadedModel, ConversationEngine] | None:
        """The model that a running server holds, and an engine that asks it; None if there is none."""
        if self.speculator.can_change_text:
            check_no_server_named(self.model, "--draft or --lookup")
            return None

        def find() -> ServerState | None:
            return server_for(replace(self.model, model=name), template=template)

        server = find()
        if server is None:
            return None
        from llmcli.client.engine import ServedEngine
        from llmcli.engine.context_limit import allowed_context

        if server.url is not None and not has_same_files(server, name):
            raise UsageError(
                f"A chat needs the tokenizer of {server.model}, which {server.url} holds: give the same model with -m. "
                "llm generate needs nothing but the server."
            )
        checkpoint = find_checkpoint(name, weights=False)
        parts = checkpoint.read_text_parts()
        model = ServedModel(
            checkpoint.name,
            parts.tokenizer,
            parts.template(template),
            parts.generation_defaults,
            lambda: self._here(name, template)[0],
        )
        engine = ServedEngine(
            server,
            find,
            lambda: self.speculator.engine(model.here, self.model),
            context_length=allowed_context(checkpoint.config, self.model.context),
            tell=terminal.note,
            advice="The text so far is kept; /retry asks again.",
        )
        # It has what a chat needs of a loaded model, and loads the rest when it is needed.
        return cast("LoadedModel", model), engine


class ServedModel:
    """A model that a server holds, with the name, tokenizer and template of a `LoadedModel`.

    Any other attribute, which looks into the model need, loads it into this process, with a note.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        generation_defaults: Mapping[str, float],
        load: Callable[[], LoadedModel],
    ) -> None:
        self.name, self.tokenizer, self.template = name, tokenizer, template
        self.generation_defaults = generation_defaults
        self._load = load

    @cached_property
    def here(self) -> LoadedModel:
        """The model, loaded in this process."""
        terminal.note(f"{self.name} is loaded in this process for this.")
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.here, name)


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
