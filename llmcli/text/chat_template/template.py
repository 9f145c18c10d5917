"""Chat templates: the Jinja programs that define how a conversation is written for a model.

A template comes with the model and is untrusted, so it runs in a sandbox, sees only the conversation, and has a budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from llmcli.errors import CheckpointError, LlmcliError, UsageError
from llmcli.text.chat_template.budget import LIMITS, Budget, Limits, OverBudgetError

if TYPE_CHECKING:
    from jinja2 import Template

    from llmcli.text.chat_template.sandbox import TemplateEnvironment

# Compiling takes time and memory too; the longest real templates have 30,000 characters.
_LONGEST_SOURCE = 128 << 10


class ChatTemplate:
    """One chat template, compiled on first use, so that a damaged one does not matter where none is used."""

    def __init__(
        self,
        source: str,
        *,
        name: str = "default",
        special_tokens: Mapping[str, str],
        fault: LlmcliError | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """The template sees `special_tokens` by role (`bos_token`, ...). If there is a `fault`, every use raises it.

        `limits` apply to each rendering.
        """
        self.source = source
        self.name = name
        self.operations = 0
        """Operations of all renderings so far."""
        self.exhaustion: CheckpointError | None = None
        """The error of a rendering that has exceeded its budget; None: none has."""
        self.special_tokens = dict(special_tokens)
        self._fault, self._limits = fault, limits

    def check(self) -> None:
        """Compile the template.

        Raises:
            CheckpointError: the template is not valid Jinja.
        """
        _ = self._template

    @cached_property
    def _template(self) -> Template:
        if self._fault is not None:
            raise self._fault
        import jinja2

        if len(self.source) > _LONGEST_SOURCE:
            raise CheckpointError(
                f"The chat template {self.name!r} has {len(self.source)} characters; at most {_LONGEST_SOURCE} are "
                "accepted."
            )
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"The chat template {self.name!r} has an error in line {error.lineno}: {error.message}"
            ) from error
        except (MemoryError, OSError):
            raise
        except Exception as error:
            raise CheckpointError(f"The chat template {self.name!r} cannot be compiled: {_message(error)}.") from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables that the template reads without setting them, including those of the conversation.

        Raises:
            CheckpointError: the template is not valid Jinja.
        """
        from jinja2 import meta

        self.check()
        return frozenset(meta.find_undeclared_variables(_environment().parse(self.source)))

    def render(
        self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True, **kwargs: object
    ) -> str:
        """Write `messages` (each with `role` and `content`) as the model expects them.

        `add_generation_prompt` ends the text where the model's reply begins. `kwargs` are further variables of the
        template, such as `enable_thinking`.

        Raises:
            UsageError: the template refuses this conversation, by `raise_exception`.
            CheckpointError: the template fails, or exceeds its budget.
        """
        template = self._template
        from llmcli.text.chat_template.sandbox import RefusedError, rendered

        variables = {
            **self.special_tokens,
            "tools": None,
            "documents": None,
            **kwargs,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        budget = Budget(variables, self._limits)
        try:
            return rendered(template, variables, budget)
        except RefusedError as error:
            raise UsageError(f"The model's chat template refuses this conversation: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
            # A template can raise any exception that an expression can.
            told = CheckpointError(f"The chat template {self.name!r} fails: {_message(error)}.")
            if isinstance(error, OverBudgetError):
                self.exhaustion = self.exhaustion or told
            raise told from error
        finally:
            self.operations += budget.operations


def choose_template(named: Mapping[str, str], wanted: str | None = None) -> str:
    """The name of the template to use: `wanted`, else `default`, else the only one.

    Raises:
        UsageError: there is no template of the name `wanted`.
        CheckpointError: no name was given, and there is no default among none or several templates.
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


def _message(error: Exception) -> str:
    """The error's message, or its type if it has none."""
    return (str(error) or type(error).__name__).rstrip(".")


@lru_cache(maxsize=1)
def _environment() -> TemplateEnvironment:
    # Imported here, since imports at the top slow down every command.
    from llmcli.text.chat_template.sandbox import TemplateEnvironment

    return TemplateEnvironment()
