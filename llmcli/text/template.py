"""Chat templates: the Jinja programs in which a model's makers say how a conversation is written for it.

A template comes with the model, from anywhere, so it runs in a sandbox, sees nothing but the conversation, and has a
budget of work to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from llmcli.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from llmcli.text.template_sandbox import TemplateEnvironment

# Compiling takes time and memory too; the longest real ones have 30,000 characters.
_LONGEST_SOURCE = 128 << 10


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
        self.operations = 0
        """What all renderings so far have taken."""
        self._special_tokens = dict(special_tokens)
        if len(source) > _LONGEST_SOURCE:
            raise CheckpointError(
                f"The chat template {name!r} has {len(source)} characters; at most {_LONGEST_SOURCE} are accepted."
            )
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
            CheckpointError: the template fails, or does more than a template needs to.
        """
        from llmcli.text.template_budget import Budget
        from llmcli.text.template_sandbox import RefusedError, rendered

        variables = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            **kwargs,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        budget = Budget(variables)
        try:
            return rendered(self._template, variables, budget)
        except RefusedError as error:
            raise UsageError(f"The model's chat template refuses this conversation: {error}") from error
        except MemoryError:
            raise
        except Exception as error:
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
    from llmcli.text.template_sandbox import TemplateEnvironment

    return TemplateEnvironment()
