"""Tab completions of flags and arguments, in a shell and in a chat. None of them imports torch.

Each completer takes the text typed so far and returns the names that begin with it. If it returns none, a shell offers
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmcli.errors import LlmcliError

# Typer reads the annotations of a completer to decide which arguments to pass.
Completer = Callable[[str], list[str]]


def _completer(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(incomplete: str) -> list[str]:
        try:
            found = list(dict.fromkeys(names()))
        except (LlmcliError, OSError):
            return []  # the command reports the error when it runs
        return [name for name in found if name.startswith(incomplete)]

    # Types, not strings: Typer does not evaluate the string annotations of a function defined in another module.
    complete.__annotations__ = {"incomplete": str}
    return complete


def model_names() -> list[str]:
    """Names of the starter, of the models on this machine, and of the aliases."""
    from llmcli.hub.aliases import aliases
    from llmcli.hub.resolve import local_models

    try:
        short = list(aliases())
    except LlmcliError:
        short = []
    return ["starter", *short, *(model.name for model in local_models())]


def _pulled() -> list[str]:
    from llmcli.hub.resolve import local_models

    return [model.name for model in local_models() if model.place != "package"]


def _aliases() -> list[str]:
    from llmcli.hub.aliases import aliases

    return list(aliases())


def _prompt_templates() -> list[str]:
    from llmcli.commands.shared.prompt_template_files import template_names

    return template_names()


def _edits() -> list[str]:
    from llmcli.checkpoint.edits.store import edit_files

    return [path.stem for path in edit_files()]


def _chats() -> list[str]:
    from llmcli.conversations.store import conversation_files

    return [path.stem for path in conversation_files()]


def _runs() -> list[str]:
    from llmcli.conversations.store import ConversationKind, conversation_files

    return [path.stem for path in conversation_files((ConversationKind.RUN,))]


def _conversations() -> list[str]:
    from llmcli.conversations.store import ANY, conversation_files

    return [path.stem for path in conversation_files(ANY)]


def _servers() -> list[str]:
    from llmcli.server.registry import running_servers

    return [state.name for state in running_servers()]


def _topics() -> list[str]:
    from llmcli.docs import pages

    return list(pages.TOPICS)


MODELS = _completer(model_names)
PULLED = _completer(_pulled)
ALIASES = _completer(_aliases)
PROMPT_TEMPLATES = _completer(_prompt_templates)
EDITS = _completer(_edits)
CHATS = _completer(_chats)
RUNS = _completer(_runs)
CONVERSATIONS = _completer(_conversations)
SERVERS = _completer(_servers)
TOPICS = _completer(_topics)
DTYPES = _completer(lambda: ("auto", "float32", "bfloat16", "float16"))
QUANTIZED = _completer(lambda: ("int8", "int4"))
KV_CACHES = _completer(lambda: ("auto", "int8"))
DEVICES = _completer(lambda: ("auto", "cpu", "cuda", "mps"))
PEERS = _completer(lambda: ("llama.cpp", "transformers", "transformers-compiled"))
