"""Run open-weight language models in a terminal, and look inside them while they run.

From Python:

    import llmcli

    model = llmcli.load("owner/name")  # a folder, a .gguf file or a name; no argument: the starter model
    print(model.generate("What is RoPE?", temperature=0))
    for event in model.stream("Hi"):
        if isinstance(event, llmcli.Step):
            print(event.text, end="")
    chat = model.chat(system="Be brief.")
    print(chat.send("Hi"))

Keyword arguments such as `temperature=0` are the settings of `SamplingParams`, with the defaults of `llm generate`.
Errors are subclasses of `LlmcliError`, with a message of one or two sentences.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from llmcli.api import load
    from llmcli.engine.chat import Chat
    from llmcli.engine.events import Finish, Prefill, Step
    from llmcli.engine.reply.result import Reply
    from llmcli.engine.sampling.params import SamplingParams
    from llmcli.errors import (
        CheckpointError,
        LlmcliError,
        ModelNotFoundError,
        NotFiniteError,
        OutOfMemoryError,
        PromptTooLongError,
        UnsupportedModelError,
        UsageError,
    )
    from llmcli.loaded_model import LoadedModel
    from llmcli.text.chat.messages import Message

__all__ = [
    "Chat",
    "CheckpointError",
    "Finish",
    "LlmcliError",
    "LoadedModel",
    "Message",
    "ModelNotFoundError",
    "NotFiniteError",
    "OutOfMemoryError",
    "Prefill",
    "PromptTooLongError",
    "Reply",
    "SamplingParams",
    "Step",
    "UnsupportedModelError",
    "UsageError",
    "__version__",
    "load",
]

_MODULES = {
    "load": "api",
    "LoadedModel": "loaded_model",
    "Chat": "engine.chat",
    "Finish": "engine.events",
    "Prefill": "engine.events",
    "Step": "engine.events",
    "Reply": "engine.reply.result",
    "SamplingParams": "engine.sampling.params",
    "Message": "text.chat.messages",
}


def __getattr__(name: str) -> object:
    # Imported on first use, so that `llm --help` does not import torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
