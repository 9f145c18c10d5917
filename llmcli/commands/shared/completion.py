"""What Tab offers after a flag or for an argument, in a shell and in a chat. None of it imports torch.

Each function is given what has been typed and returns the names that begin with it. Where it returns none, a shell
offers files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmcli.errors import LlmcliError

# As Typer calls it, which looks at the annotations.
Completer = Callable[[str], list[str]]


def _completer(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(incomplete: str) -> list[str]:
        try:
            found = list(dict.fromkeys(names()))
        except (LlmcliError, OSError):
            return []  # what is wrong there is said when the command runs
        return [name for name in found if name.startswith(incomplete)]

    # Strings, as they would be of this module, are not evaluated for a function made elsewhere.
    complete.__annotations__ = {"incomplete": str}
    return complete


def model_names() -> list[str]:
    """The starter, the models on this machine, and the aliases."""
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


def _conversations() -> list[str]:
    from llmcli.conversations.store import conversation_files

    return [path.stem for path in conversation_files()]


def _topics() -> list[str]:
    from llmcli.docs import pages

    return list(pages.TOPICS)


MODELS = _completer(model_names)
PULLED = _completer(_pulled)
ALIASES = _completer(_aliases)
PROMPT_TEMPLATES = _completer(_prompt_templates)
EDITS = _completer(_edits)
CONVERSATIONS = _completer(_conversations)
TOPICS = _completer(_topics)
DTYPES = _completer(lambda: ("auto", "float32", "bfloat16", "float16"))
QUANTIZED = _completer(lambda: ("int8", "int4"))
DEVICES = _completer(lambda: ("auto", "cpu", "cuda", "mps"))
PEERS = _completer(lambda: ("llama.cpp", "transformers", "transformers-compiled"))
