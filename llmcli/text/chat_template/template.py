"""Chat templates: the Jinja programs in which a model's makers say how a conversation is written for it.

A template comes with the model, from anywhere, so it runs in a sandbox, sees nothing but the conversation, and has a
budget of work to do.
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

# Compiling takes time and memory too; the longest real ones have 30,000 characters.
_LONGEST_SOURCE = 128 << 10


class ChatTemplate:
    """One chat template. It is compiled when it is first used: what needs none is not stopped by a damaged one."""

    def __init__(
        self,
        source: str,
        *,
        name: str = "default",
        special_tokens: Mapping[str, str],
        fault: LlmcliError | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Special tokens are visible to it by their roles (`bos_token`, ...); a `fault` is raised by every use.

        Each rendering may take as much as `limits` allow.
        """
        self.source = source
        self.name = name
        self.operations = 0
        """What all renderings so far have taken."""
        self.is_exhausted = False
        """Whether a rendering has been stopped because it took too much."""
        self.special_tokens = dict(special_tokens)
        self._fault, self._limits = fault, limits

    def check(self) -> None:
        """Compile it.

        Raises:
            CheckpointError: it is not valid Jinja.
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
            raise CheckpointError(f"The chat template {self.name!r} cannot be compiled: {_told(error)}.") from error

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names of the variables that it reads without setting them before, those of the conversation included.

        Raises:
            CheckpointError: it is not valid Jinja.
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
            UsageError: the template refuses this conversation, in its own words.
            CheckpointError: the template fails, or does more than a template needs to.
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
            self.is_exhausted = self.is_exhausted or isinstance(error, OverBudgetError)
            # Sandboxed or not, a template can go wrong in any way an expression can.
            raise CheckpointError(f"The chat template {self.name!r} fails: {_told(error)}.") from error
        finally:
            self.operations += budget.operations


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


def _told(error: Exception) -> str:
    """What happened, in the error's own words if it has any."""
    return (str(error) or type(error).__name__).rstrip(".")


@lru_cache(maxsize=1)
def _environment() -> TemplateEnvironment:
    # Here and not above: every command pays for what is imported at the top.
    from llmcli.text.chat_template.sandbox import TemplateEnvironment

    return TemplateEnvironment()
