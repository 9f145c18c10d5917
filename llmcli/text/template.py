"""Chat templates: the Jinja programs in which a model's makers say how a conversation is written for it.

A template comes with the model, from anywhere, so it runs in a sandbox and sees nothing but the conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplate:
    """One compiled chat template."""

    def __init__(self, source: str, *, name: str = "default", special_tokens: Mapping[str, str]) -> None:
        """Compile `source`. Special tokens are visible to it by their roles (`bos_token`, ...).

        Raises:
            CheckpointError: `source` is not valid Jinja.
        """
        import jinja2

        self.source = source
        self.name = name
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"The chat template {name!r} has an error in line {error.lineno}: {error.message}"
            ) from error
        except (MemoryError, OSError):
            raise
        except Exception as error:
            raise CheckpointError(f"The chat template {name!r} cannot be compiled: {_told(error)}.") from error

    def render(
        self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True, **kwargs: object
    ) -> str:
        """Write `messages` (each with `role` and `content`) as the model expects them.

        `add_generation_prompt` ends the text where the model's reply begins. `kwargs` are further variables of the
        template, such as `enable_thinking`.

        Raises:
            UsageError: the template refuses this conversation, in its own words.
            CheckpointError: the template fails.
        """
        variables = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **kwargs,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(variables)
        except _RefusedError as error:
            raise UsageError(f"The model's chat template refuses this conversation: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            # Sandboxed or not, a template can go wrong in any way an expression can.
            raise CheckpointError(f"The chat template {self.name!r} fails: {_told(error)}.") from error


def choose_template(named: Mapping[str, str], wanted: str | None = None) -> str:
    """The name of the template to use: the one the user wanted, else `default`, else the only one there is.

    Raises:
        UsageError: there is none of the name the user wanted.
        CheckpointError: the user wanted none by name, and there are several of which none is the default.
    """
    if wanted is not None:
        if wanted in named:
            return wanted
        names = ", ".join(sorted(named))
        known = f"its chat templates are: {names}" if names else "it has no chat templates"
        raise UsageError(f"The model has no chat template {wanted!r}; {known}.")
    if "default" in named:
        return "default"
    if len(named) == 1:
        return next(iter(named))
    names = ", ".join(sorted(named)) or "none"
    raise CheckpointError(f"The model has no default chat template; its templates are: {names}. Choose one by name.")


class _RefusedError(Exception):
    """Raised by the template itself, through `raise_exception`."""


def _told(error: Exception) -> str:
    """What happened, in the error's own words if it has any."""
    return (str(error) or type(error).__name__).rstrip(".")


def _raise_exception(message: object) -> str:
    raise _RefusedError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """What templates are compiled in: the environment of `transformers`, without generators of filler text."""
    # Here and not above: every command pays for what is imported at the top.
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks replies for training; to write a prompt, its content is simply there."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            """Read the block and keep its content, in a scope of its own."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    functions: dict[str, Callable[..., object]] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _dict,
    }
    environment.globals.update(functions)
    return environment
